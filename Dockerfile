# The page and the endpoints for programs on a CPU, with the bundled model inside: see docs/serving.md.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /venv
# The build for CPUs has a quarter of the size. Its headers and programs are for those who compile.
RUN /venv/bin/pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu \
    && rm -rf /venv/lib/python3.12/site-packages/torch/include /venv/lib/python3.12/site-packages/torch/bin
COPY pyproject.toml README.md LICENSE ./
COPY assets assets
COPY training training
COPY vlm vlm
RUN /venv/bin/pip install --no-cache-dir ".[mcp,heif]"

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home vlm
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/vlm
EXPOSE 7860
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/readyz', timeout=4)"]
ENTRYPOINT ["vlm"]
CMD ["serve", "--host", "0.0.0.0"]
