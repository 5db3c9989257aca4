"""The page's events, as Gradio brings them to the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.running import free_port
from vlm.app.component import build
from vlm.captioner import Captioner
from vlm.engine import Engine


@pytest.fixture
def address(tiny: Captioner) -> Iterator[str]:
    port = free_port()
    with Engine(tiny) as engine:
        blocks = build(engine)
        blocks.launch(server_port=port, prevent_thread_lock=True, quiet=True, ssr_mode=False)
        yield f"http://127.0.0.1:{port}/"
        blocks.close(verbose=False)


def send(address: str, session: str, event: str, data: dict[str, object]) -> None:
    """What a page sends when something happens on it."""
    dependencies = httpx.get(f"{address}config").json()["dependencies"]
    listener = next(d for d in dependencies if d["targets"][0][1] == event)
    request = {
        "data": [None],
        "event_data": data,
        "fn_index": listener["id"],
        "trigger_id": listener["targets"][0][0],
        "session_hash": session,
    }
    httpx.post(f"{address}gradio_api/queue/join", json=request).raise_for_status()


def test_closing_the_page_ends_its_work(
    address: str, tiny: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    begun = threading.Event()
    forward = tiny.model.decoder.forward

    def slow(*inputs: object, **options: object) -> object:
        passes.append(time.monotonic())
        begun.set()
        time.sleep(0.2)
        return forward(*inputs, **options)

    monkeypatch.setattr(tiny.model.decoder, "forward", slow)
    with httpx.stream("GET", f"{address}gradio_api/heartbeat/reader") as open_page:
        messages = open_page.iter_text()
        next(messages)
        send(address, "reader", "example", {"turn": 1, "index": 0})
        assert begun.wait(60)
    closed = time.monotonic()
    time.sleep(4)
    assert len(passes) < 15  # of 31 and a last one for the maps
    assert passes[-1] < closed + 2
