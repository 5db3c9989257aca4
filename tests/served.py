"""The endpoints for programs on a free port of this machine, in a thread of the test's own process."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from openai import OpenAI
from starlette.types import ASGIApp

PHOTOS = sorted((Path(__file__).resolve().parent.parent / "assets" / "examples").glob("*.jpg"))


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Its address."""
    # Clients of Gradio keep a stream open as long as they live, which must not keep the server.
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def client(address: str, key: str = "none") -> OpenAI:
    """OpenAI's own client, which does not try again."""
    return OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=60)


def data_url(photo: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(photo.read_bytes()).decode()}"


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def asking(photo: Path, text: str | None = None) -> list[dict[str, Any]]:
    """The messages of a request about a photo."""
    parts = [] if text is None else [{"type": "text", "text": text}]
    return [{"role": "user", "content": [*parts, picture(data_url(photo))]}]
