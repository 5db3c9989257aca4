"""The app's named endpoints, as gradio_client sees them; and the examples that docs/serving.md gives for it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from documentation import ROOT, blocks
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from served import PHOTOS, served

from vlm.app.launch import page_application, photo_folder
from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.server.settings import Settings
from vlm.server.web import application

QUESTION = "is there a dog in the picture?"
EXAMPLES = blocks((ROOT / "docs" / "serving.md").read_text(), "python")


@pytest.fixture(scope="module")
def address(tiny: Captioner) -> Iterator[str]:
    with Engine(tiny) as engine, photo_folder():
        page = page_application(engine)
        with served(application(engine, Settings("small"), page=page)) as address:
            yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    client = Client(address, verbose=False)
    yield client
    client.close()


def same(found: Any, expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name in ("caption", "question", "answer", "verdict", "finished"):
        assert found.get(name) == expected.get(name)
    assert found["confidence"] == pytest.approx(expected["confidence"], rel=1e-3)


def test_endpoints_say_what_the_model_says(client: Client, tiny: Captioner) -> None:
    for photo in PHOTOS[:3]:
        image, file = tiny.encode(photo), handle_file(str(photo))
        same(client.predict(image=file, api_name="/caption"), image.caption().to_dict())
        several = client.predict(image=file, candidates=3, api_name="/caption")
        texts = [c["caption"] for c in several["candidates"]]
        assert texts == [c["caption"] for c in image.caption(candidates=3).to_dict()["candidates"]]
        asked = client.predict(image=file, question=QUESTION, api_name="/ask")
        same(asked, image.ask(QUESTION).to_dict())


@pytest.mark.parametrize("question", ["", QUESTION])
def test_explaining_gives_a_map_for_each_word(
    client: Client, tiny: Captioner, question: str
) -> None:
    image = tiny.encode(PHOTOS[1])
    own = image.ask(question) if question else image.caption()
    file = handle_file(str(PHOTOS[1]))
    found = client.predict(image=file, question=question, method="value", api_name="/explain")
    for word_map, expected in zip(found, own.maps(method="value"), strict=True):
        assert (word_map["text"], word_map["role"]) == (expected.text, expected.role)
        np.testing.assert_allclose(word_map["map"], expected.weights, atol=1e-4)


def test_endpoints_are_described(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert {"/caption", "/ask", "/explain"} <= set(named)
    for name in ("/caption", "/ask", "/explain"):
        parameters = [parameter["parameter_name"] for parameter in named[name]["parameters"]]
        assert parameters[0] == "image"
        assert "request" not in parameters


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("/ask", {"question": " ?"}, "the question is empty"),
        ("/caption", {"candidates": 99}, "from 1 to 16"),
        ("/explain", {"method": "x"}, "no method 'x'"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    client: Client, name: str, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(AppError, match=says):
        client.predict(image=handle_file(str(PHOTOS[0])), api_name=name, **values)


def test_a_file_that_is_no_photo_is_told_by_its_own_name(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("no photo")
    with pytest.raises(AppError, match=r"^notes\.jpg is not an image"):
        client.predict(image=handle_file(str(file)), api_name="/caption")


@pytest.mark.parametrize(
    "image",
    [
        {"path": str(PHOTOS[0]), "meta": {"_type": "gradio.FileData"}},
        {"path": str(PHOTOS[0])},
        {"path": f"{{uploads}}/../..{PHOTOS[0]}"},
        {"path": f"file://{PHOTOS[0]}"},
        {"path": "", "url": f"file://{PHOTOS[0]}"},
        {"path": None},
        str(PHOTOS[0]),
        None,
    ],
)
def test_a_file_of_the_server_is_not_read(address: str, image: Any) -> None:
    if isinstance(image, dict) and image["path"]:
        image = image | {"path": image["path"].replace("{uploads}", get_upload_folder())}
    url = f"{address}/gradio_api/call/v2/caption"
    begun = httpx.post(url, json={"image": image, "candidates": 1})
    if begun.status_code == 200:
        event = httpx.get(f"{address}/gradio_api/call/caption/{begun.json()['event_id']}").text
        assert "event: error" in event
        assert '"caption"' not in event


def test_no_image_is_fetched_from_the_web(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    async def download(url: str, cache_dir: str) -> str:
        fetched.append(url)
        return str(PHOTOS[0])

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", download)
    image = handle_file("https://example.org/dog.jpg")
    with pytest.raises(AppError, match="fetches no files"):
        client.predict(image=image, api_name="/caption")
    assert fetched == []


def test_the_page_reads_no_file_of_the_server(address: str) -> None:
    """Gradio looks at paths only where it believes itself launched, which one that is mounted does not by itself."""
    config = httpx.get(f"{address}/config").json()
    listener = next(d for d in config["dependencies"] if d["targets"][0][1] == "photo")
    session = {"session_hash": "forged"}
    request = {
        "data": [None],
        "event_data": {"turn": 1, "path": str(PHOTOS[0]), "name": "x.jpg"},
        "fn_index": listener["id"],
        "trigger_id": listener["targets"][0][0],
        **session,
    }
    httpx.post(f"{address}/gradio_api/queue/join", json=request).raise_for_status()
    url = f"{address}/gradio_api/queue/data"
    with httpx.stream("GET", url, params=session, timeout=60) as events:
        messages = [json.loads(line.removeprefix("data:")) for line in events.iter_lines() if line]
    (completed,) = [m for m in messages if m["msg"] == "process_completed"]
    assert not completed["success"]
    assert "data" not in completed["output"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_documentation_run(
    address: str, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(example.replace("http://127.0.0.1:7860", address), {})
    assert said.getvalue().strip()


def test_there_is_an_example_for_each_client() -> None:
    assert sum("from openai" in example for example in EXAMPLES) >= 1
    assert sum("from gradio_client" in example for example in EXAMPLES) >= 1
