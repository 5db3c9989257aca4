"""Who comes in, how many, how much they bring and how long they stay; and that who leaves costs nothing more."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import OpenAI
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from served import PHOTOS, asking, client, served
from typer.testing import CliRunner

from vlm.captioner import Captioner
from vlm.cli import app
from vlm.engine import TURN, Engine, Job
from vlm.folder.pipeline import caption_files
from vlm.server.api_keys import ApiKeys, KeyFileError, add_key
from vlm.server.settings import Settings
from vlm.server.web import application

CLIENTS = 50
QUESTIONS = ["is there a dog?", "how many people are there?", "what colour is it?"]


@contextmanager
def serving(
    captioner: Captioner, keys: ApiKeys | None = None, **limits: Any
) -> Iterator[tuple[str, Engine]]:
    settings = Settings("tiny", **limits)
    with Engine(captioner) as engine, served(application(engine, settings, keys)) as address:
        yield address, engine


def body(photo: Path = PHOTOS[0], **values: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": asking(photo), **values}


def measured(address: str, name: str, **headers: str) -> dict[tuple[str, ...], float]:
    text = httpx.get(f"{address}/metrics", headers=headers).text
    found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {tuple(s.labels.values()): s.value for s in found if s.name == name}


@pytest.fixture
def passes(tiny: Captioner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each of the decoder's passes, which take 20 ms each."""
    counted: list[int] = []
    forward = tiny.model.decoder.forward

    def slow(ids: torch.Tensor, *rest: object, **named: object) -> object:
        counted.append(len(ids))
        time.sleep(0.02)
        return forward(ids, *rest, **named)

    monkeypatch.setattr(tiny.model.decoder, "forward", slow)
    return counted


def until(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[ApiKeys, str]:
    key = add_key(tmp_path / "keys", "ada")
    return ApiKeys.read(tmp_path / "keys"), key


def test_with_keys_nothing_but_health_answers_without_one(
    tiny: Captioner, keys: tuple[ApiKeys, str]
) -> None:
    with serving(tiny, keys[0]) as (address, _):
        for wrong in (
            "Bearer vlm-x",
            f"Bearer {keys[1][:-1]}",
            f"Basic {keys[1]}",
            keys[1],
            "Bearer é",
        ):
            refused = [
                httpx.get(f"{address}/{path}", headers={"Authorization": wrong.encode()})
                for path in ("v1/models", "v1/models/tiny", "metrics")
            ]
            assert {reply.status_code for reply in refused} == {401}
            assert {reply.headers["www-authenticate"] for reply in refused} == {"Bearer"}
        assert httpx.get(f"{address}/v1/models").status_code == 401
        with pytest.raises(openai.AuthenticationError):
            client(address, "vlm-x").chat.completions.create(**body())
        assert client(address, keys[1]).chat.completions.create(**body()).choices
        assert [httpx.get(f"{address}/{p}").status_code for p in ("healthz", "readyz")] == [200] * 2
        counted = measured(address, "vlm_requests_total", Authorization=f"bearer {keys[1]}")
        assert counted["chat", "200"] == counted["chat", "401"] == 1


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    command = ["serve", "--api-keys", str(file), "--add-key"]
    first, second = (CliRunner().invoke(app, [*command, name]) for name in ("ada", "grace"))
    again = CliRunner().invoke(app, [*command, "ada"])
    key, other, new = (run.stdout.strip() for run in (first, second, again))
    assert len({key, other, new}) == 3
    assert not any(k in file.read_text() for k in (key, other, new))
    read = ApiKeys.read(file)
    assert [read.owner(k) for k in (key, other, new, "")] == [None, "grace", "ada", None]
    assert file.stat().st_mode & 0o777 == 0o600
    assert [f.name for f in tmp_path.iterdir()] == ["keys"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ada:secret\n", "line 1 of"),
        ("# keys\nada\n", "line 2 of"),
        (f":{'0' * 64}\n", "line 1 of"),
        (f"ada:{'0' * 64}\nada:{'1' * 64}\n", "twice"),
        ("# none yet\n\n", "has no key"),
    ],
)
def test_a_wrong_file_of_keys_is_one_sentence_that_tells_no_secret(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(KeyFileError, match=says) as caught:
        ApiKeys.read(file)
    assert "secret" not in str(caught.value)
    run = CliRunner().invoke(app, ["serve", "--no-page", "--api-keys", str(file)])
    assert (run.exit_code, run.output) == (2, f"error: {caught.value}\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--api-keys", "keys"], "give --auth-file FILE as well, or --no-page"),
        (["--auth-file", "users"], "give --api-keys FILE as well, or --no-page"),
        (["--no-page", "--auth-file", "users"], "are the page's"),
        (["--add-key", "ada"], "--api-keys FILE"),
        (["--no-page", "--max-megapixels", "1000"], "max_pixels must be"),
        (["--no-page", "--time-limit", "0"], "seconds must be positive"),
    ],
)
def test_what_does_not_go_together_starts_nothing(options: list[str], says: str) -> None:
    run = CliRunner().invoke(app, ["serve", *options])
    assert run.exit_code == 2
    assert says in run.output


def test_a_full_server_says_when_to_come_again(tiny: Captioner) -> None:
    free = threading.Event()
    with serving(tiny, max_requests=2) as (address, engine), ThreadPoolExecutor(2) as pool:
        engine.call("someone else", lambda: free.wait(60))
        ask = client(address).chat.completions.create
        waiting = [pool.submit(ask, **body()) for _ in range(2)]
        until(lambda: measured(address, "vlm_requests_running")[()] == 2)
        with pytest.raises(openai.RateLimitError, match="come again") as caught:
            ask(**body())
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert httpx.get(f"{address}/readyz").status_code == 200
        free.set()
        assert [job.result().choices[0].message.content for job in waiting]
        assert ask(**body()).choices  # there is room again
        assert measured(address, "vlm_requests_total")["chat", "429"] == 1


def test_a_body_that_is_too_large_is_refused_while_it_is_sent(tiny: Captioner) -> None:
    with serving(tiny, max_body=200_000) as (address, _):
        with pytest.raises(openai.APIStatusError, match="too large") as caught:
            client(address).chat.completions.create(**body(user="x" * 5_000_000))
        assert caught.value.status_code == 413

        def unannounced() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 50_000

        headers = {"Content-Type": "application/json"}
        path = f"{address}/v1/chat/completions"
        assert httpx.post(path, content=unannounced(), headers=headers).status_code == 413


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tiny: Captioner) -> None:
    file = io.BytesIO()
    Image.new("1", (4000, 3000)).save(file, "PNG")
    photo = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": photo}}]}
    with serving(tiny, max_pixels=11_000_000) as (address, _):
        with pytest.raises(openai.BadRequestError, match="the limit is 11 megapixels"):
            client(address).chat.completions.create(model="tiny", messages=[message])
        assert client(address).chat.completions.create(**body()).choices


@pytest.mark.parametrize("stream", [False, True])
def test_what_takes_too_long_ends(tiny: Captioner, passes: list[int], stream: bool) -> None:
    search = {"vlm": {"search": {"min_tokens": 40, "max_tokens": 40, "beams": 1}}}
    with serving(tiny, seconds=0.4) as (address, engine):
        with pytest.raises(openai.APIError, match=r"longer than the 0\.4 s"):
            list(
                client(address).chat.completions.create(**body(), stream=stream, extra_body=search)
            )
        done = len(passes)
        engine.call("test", lambda: None).result(60)
        assert len(passes) <= done + 1
        assert measured(address, "vlm_requests_running")[()] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place_within_a_token(
    tiny: Captioner, passes: list[int], stream: bool
) -> None:
    search = {"search": {"min_tokens": 40, "max_tokens": 40, "beams": 1}}
    text = json.dumps(body(stream=stream, vlm=search)).encode()
    with serving(tiny) as (address, engine):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
            until(lambda: len(passes) >= 5)
        done = len(passes)
        engine.call("test", lambda: None).result(60)
        # The news of it takes a moment, in which another token or two may come.
        assert len(passes) <= done + 3
        until(lambda: measured(address, "vlm_requests_running")[()] == 0)
        assert len(passes) <= done + 3
        assert measured(address, "vlm_requests_total")["chat", "499"] == 1


def test_a_request_that_waits_leaves_the_line_with_its_client(tiny: Captioner) -> None:
    free = threading.Event()
    with serving(tiny) as (address, engine):
        engine.call("someone else", lambda: free.wait(60))
        with pytest.raises(openai.APITimeoutError):
            client(address).with_options(timeout=0.5).chat.completions.create(**body())
        until(lambda: engine.waiting == 0)
        free.set()


def test_fifty_clients_at_once_get_their_own_answers(tiny: Captioner) -> None:
    """Answers are planted: each photo and question has one that no other has."""
    images = tiny.encode_all(PHOTOS)
    planted = {}
    for photo, image in zip(PHOTOS, images):
        planted[photo, None] = image.caption().text
        planted |= {(photo, question): image.ask(question).text for question in QUESTIONS}
    assert len(set(planted.values())) > len(planted) * 0.8
    kinds = list(planted)

    def visit(number: int) -> None:
        programs: OpenAI = client(address)
        for step in range(3):
            photo, question = kinds[(number + 7 * step) % len(kinds)]
            stream = (number + step) % 2 == 0
            reply = programs.chat.completions.create(
                model="tiny", messages=asking(photo, question), stream=stream
            )
            if stream:
                said = "".join(chunk.choices[0].delta.content or "" for chunk in reply)
            else:
                said = reply.choices[0].message.content
            assert said == planted[photo, question]

    with serving(tiny) as (address, engine):
        most = 0
        with ThreadPoolExecutor(CLIENTS) as pool:
            visits = [pool.submit(visit, number) for number in range(CLIENTS)]
            while not all(job.done() for job in visits):
                most = max(most, engine.waiting)
                time.sleep(0.01)
        for job in visits:
            job.result()
        assert 1 < most <= CLIENTS
        assert engine.waiting == 0
        assert measured(address, "vlm_requests_total") == {("chat", "200"): 3 * CLIENTS}


def test_programs_do_not_wait_for_a_folder(tiny: Captioner, tmp_path: Path) -> None:
    """Each request waits for the batch that runs and one more for each of its two turns, not for the whole folder."""
    files = []
    for number in range(400):
        files.append(str(tmp_path / f"{number}.jpg"))
        Path(files[-1]).symlink_to(PHOTOS[number % len(PHOTOS)])
    with serving(tiny) as (address, engine):
        done = 0
        stop = threading.Event()

        def folder() -> None:
            nonlocal done

            def submit(work: Callable[[], Any]) -> Job[Any]:
                return engine.call("folder", work)

            for _ in caption_files(tiny, submit, files, [], size=TURN):
                done += 1
                if stop.is_set():
                    return

        thread = threading.Thread(target=folder)
        thread.start()
        until(lambda: done >= TURN)
        before = done
        for _ in range(3):
            assert client(address).chat.completions.create(**body()).choices
        passed = done - before
        stop.set()
        thread.join()
        assert passed <= 3 * 5 * TURN
        assert done < len(files)
