"""Tools for agents, as the reference client sees them: over a pipe and over HTTP, and what they may not read."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from PIL import Image
from served import PHOTOS, data_url, served

from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.server.api_keys import ApiKeys, add_key
from vlm.server.mcp_tools import mcp_application, tools
from vlm.server.media import Media
from vlm.server.settings import Settings
from vlm.server.web import application

QUESTION = "is there a dog in the picture?"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that may be read: a photo and links, of which one leads out of it."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.jpg").write_bytes(PHOTOS[1].read_bytes())
    folder = tmp_path_factory.mktemp("photos")
    (folder / "dog.jpg").write_bytes(PHOTOS[2].read_bytes())
    (folder / "inner").mkdir()
    (folder / "inner" / "same.jpg").symlink_to("../dog.jpg")
    (folder / "secret.jpg").symlink_to(outside / "secret.jpg")
    (folder / "elsewhere").symlink_to(outside)
    (folder / "notes.txt").write_text("no photo")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.fixture(scope="module")
def agent_server(tiny: Captioner, folder: Path) -> Iterator[str]:
    settings = Settings("tiny")
    with Engine(tiny) as engine:
        agents = mcp_application(engine, settings, [folder], "127.0.0.1", with_keys=False)
        with served(application(engine, settings, mcp=agents)) as address:
            yield f"{address}/mcp"


def calls(
    client: AbstractAsyncContextManager[Client], *asked: tuple[str, dict[str, Any]]
) -> list[Any]:
    async def run() -> list[Any]:
        async with client as session:
            return [await session.call_tool(name, values) for name, values in asked]

    return anyio.run(run)


def test_tools_say_what_they_do_and_take(agent_server: str) -> None:
    async def listed() -> Any:
        async with Client(agent_server) as session:
            return await session.list_tools()

    found = {tool.name: tool for tool in anyio.run(listed).tools}
    assert sorted(found) == ["ask", "caption", "explain"]
    for tool in found.values():
        assert tool.description
        assert tool.annotations.read_only_hint
        assert "context" not in tool.input_schema["properties"]
    assert found["ask"].input_schema["required"] == ["image", "question"]


def test_what_tools_say_is_what_the_model_says(
    tiny: Captioner, agent_server: str, folder: Path
) -> None:
    image = tiny.encode(PHOTOS[2])
    sources = [data_url(PHOTOS[2]), "dog.jpg", str(folder / "dog.jpg"), "inner/same.jpg"]
    sources += [f"file://{folder}/dog.jpg", "inner/../dog.jpg"]
    captions = calls(Client(agent_server), *(("caption", {"image": s}) for s in sources))
    assert {said.structured_content["text"] for said in captions} == {image.caption().text}
    asked = {"image": sources[0], "question": QUESTION}
    (answer, several) = calls(
        Client(agent_server), ("ask", asked), ("caption", {"image": sources[0], "candidates": 3})
    )
    own = image.ask(QUESTION)
    assert answer.structured_content["text"] == own.text
    assert answer.structured_content["confidence"] == pytest.approx(own.confidence, rel=1e-3)
    others = [other["text"] for other in several.structured_content["alternatives"]]
    assert others == [other.text for other in image.caption(candidates=3).alternatives]


@pytest.mark.parametrize("question", [None, QUESTION])
def test_explaining_shows_a_map_and_a_place_for_each_word(
    tiny: Captioner, agent_server: str, question: str | None
) -> None:
    image = tiny.encode(PHOTOS[2])
    own = image.caption() if question is None else image.ask(question)
    values = {"image": data_url(PHOTOS[2]), "question": question, "method": "occlusion"}
    (said,) = calls(Client(agent_server), ("explain", values))
    words = said.structured_content["words"]
    assert [word["text"] for word in words] == [word.text for word in own.words]
    maps = own.maps(method="occlusion")[-len(words) :]
    for word, word_map, effect in zip(words, maps, own.image_effect.words, strict=True):
        (row,), (column,) = (word_map.weights == word_map.weights.max()).nonzero(as_tuple=True)
        height, width = word_map.grid
        place = [(column + 0.5) / width, (row + 0.5) / height]
        assert word["peak"] == pytest.approx([float(p) for p in place], abs=1e-3)
        assert word["image_effect"] == pytest.approx(effect, abs=1e-2)
    picture = Image.open(io.BytesIO(base64.b64decode(said.content[1].data)))
    assert (picture.format, picture.width > 300) == ("PNG", True)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        *[
            ({"image": path}, "there is no such file in")
            for path in (
                *("secret.jpg", "elsewhere/secret.jpg", "../outside0/secret.jpg", "/etc/passwd"),
                *("missing.jpg", "inner/../../x.jpg", ".", "pipe.jpg", "", "a\0b", "x" * 5000),
                "file:///etc/passwd",
            )
        ],
        ({"image": "notes.txt"}, "not an image that can be read"),
        ({"image": "http://127.0.0.1/a.jpg"}, "fetches no images"),
        ({"image": "data:text/plain;base64,aGk="}, "a data URL of an image"),
        ({"image": "dog.jpg", "question": "?"}, "the question is empty"),
    ],
)
def test_what_cannot_be_is_told_to_the_agent(
    agent_server: str, folder: Path, values: dict[str, Any], says: str
) -> None:
    (said,) = calls(Client(agent_server), ("explain", values))
    assert said.is_error
    assert says in said.content[0].text
    assert "outside" not in said.content[0].text.replace(values["image"], "")


def test_without_a_folder_no_path_is_read(tiny: Captioner, folder: Path) -> None:
    with Engine(tiny) as engine:
        server = tools(engine, Media.of(Settings("tiny")), 10**6)
        (said,) = calls(Client(server), ("caption", {"image": str(folder / "dog.jpg")}))
    assert said.is_error
    assert "is given as data:image" in said.content[0].text


def test_over_http_keys_and_names_are_looked_at(tiny: Captioner, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "ada")
    keys = ApiKeys.read(tmp_path / "keys")
    settings = Settings("tiny", max_body=2_000_000)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream"}
    with Engine(tiny) as engine:
        agents = mcp_application(engine, settings, [], "127.0.0.1", with_keys=True)
        with served(application(engine, settings, keys, mcp=agents)) as address:
            assert httpx.post(f"{address}/mcp", json=call, headers=headers).status_code == 401
            large = {**call, "params": {"x": "x" * 3_000_000}}
            with_key = {**headers, "Authorization": f"Bearer {key}"}
            assert httpx.post(f"{address}/mcp", json=large, headers=with_key).status_code == 413
            known = httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"})
            transport = streamable_http_client(f"{address}/mcp", http_client=known)
            (said,) = calls(Client(transport), ("caption", {"image": data_url(PHOTOS[0])}))
            assert said.structured_content["text"] == tiny.encode(PHOTOS[0]).caption().text
        agents = mcp_application(engine, settings, [], "127.0.0.1", with_keys=False)
        with served(application(engine, settings, mcp=agents)) as address:
            renamed = httpx.post(
                f"{address}/mcp", json=call, headers=headers | {"Host": "evil.org"}
            )
            assert renamed.status_code == 421


def test_an_agent_is_served_over_a_pipe(
    tiny: Captioner, tiny_checkpoint: Path, folder: Path
) -> None:
    command = ["-m", "vlm", "mcp", "--model", str(tiny_checkpoint), "--allow-folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = StdioServerParameters(command=sys.executable, args=command, env=environment)
    said, refused = calls(
        Client(server),
        ("ask", {"image": "dog.jpg", "question": QUESTION}),
        ("caption", {"image": "secret.jpg"}),
    )
    assert said.structured_content["text"] == tiny.encode(PHOTOS[2]).ask(QUESTION).text
    assert "there is no such file" in refused.content[0].text
