PYTHON ?= python3
TESTS ?= tests
NAMED = ^(torch|torchvision|timm|transformers|gradio|pillow|numpy|tokenizers|openvino|onnx)==
OVERLAID = ^(timm|transformers|tokenizers|huggingface-hub)==

.PHONY: app test check browser proxies exiftool test-oldest test-newest test-bounds screenshots wheel

app: .venv/app  ## serve the app on http://127.0.0.1:7860
	.venv/bin/python app.py

test: check browser proxies exiftool  ## everything that CI runs
	folder=$$(mktemp -d) && trap "rm -rf $$folder" EXIT && \
	  HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile --basetemp=$$folder/tests

check: .venv/test  ## lint, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

browser: .venv/test  ## a browser for the tests, where the system has none
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium >/dev/null; } || \
	  .venv/bin/playwright install chromium

proxies: .venv/python  ## the web servers of docs/serving.md, unpacked for the tests; nothing is installed or started
	@[ -x .venv/proxies/usr/bin/caddy ] || \
	  { PATH="$$PATH:/usr/sbin" command -v nginx && command -v caddy; } >/dev/null || \
	  { mkdir -p .venv/proxies && cd .venv/proxies && { [ "$$(id -u)" != 0 ] || apt-get update -qq; } && \
	    apt-get download -qq nginx caddy && for package in *.deb; do dpkg -x $$package .; done; } || \
	  echo "no nginx and caddy here: the tests with them are skipped"

exiftool:  ## what reads photos' metadata back in the tests; installed by root alone
	@command -v exiftool >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y libimage-exiftool-perl >/dev/null; } || \
	  echo "no exiftool here: the tests with it are skipped"

test-oldest: RESOLUTION = lowest-direct
test-newest: RESOLUTION = highest
test-oldest test-newest: test-%: .venv/uv  ## tests with the oldest and the newest releases that pyproject.toml lets in, each in an environment of its own
	.venv/bin/uv venv --quiet --allow-existing --python .venv/bin/python .venv/$*
	.venv/bin/uv pip install --quiet --upgrade --resolution $(RESOLUTION) --python .venv/$* --editable ".[test]"
	.venv/bin/uv pip freeze --quiet --python .venv/$* | grep -E "$(NAMED)"
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/$*/bin/python -m pytest -q -m "not slow" $(TESTS)

test-bounds: .venv/uv .venv/test  ## the oldest timm and transformers, laid over the rest of .venv
	.venv/bin/uv pip compile --quiet --python .venv/bin/python --resolution lowest-direct --extra attend pyproject.toml --output-file .venv/oldest.txt
	grep -E "$(OVERLAID)" .venv/oldest.txt > .venv/overlaid.txt
	.venv/bin/uv pip install --quiet --no-deps --python .venv --target .venv/overlaid --requirement .venv/overlaid.txt
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONPATH=.venv/overlaid .venv/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" \
	  tests/test_vision.py tests/test_runtimes_packed.py tests/test_weights_blip.py \
	  tests/test_weights_vision_encoder_decoder.py tests/test_weights_florence.py

screenshots: browser  ## the pictures of the app that README and docs show
	.venv/bin/python -m assets.screenshot

wheel: .venv/test  ## a wheel file in dist/, with the bundled model and training
	.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .

.venv/python:
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	@touch $@

.venv/uv: .venv/python
	.venv/bin/python -m pip install --quiet "uv>=0.9"
	@touch $@

.venv/app: .venv/python pyproject.toml
	.venv/bin/python -m pip install --quiet --editable .
	@touch $@

.venv/test: .venv/python pyproject.toml
	.venv/bin/python -m pip install --quiet --editable ".[test]"
	@touch $@ .venv/app
