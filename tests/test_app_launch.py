"""Starting the app: where it is shown, who may come in, and what it costs while nobody asks."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from app_server import serving
from typer.testing import CliRunner

from vlm.app.accounts import Accounts, add_account
from vlm.app.launch import public_path, serve
from vlm.captioner import Captioner
from vlm.cli import app
from vlm.errors import UserError

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("accounts") / "users"
    add_account(file, "ada", PASSWORD)
    return file


@pytest.fixture(scope="module")
def app_with_login(tiny_checkpoint: Path, users: Path) -> Iterator[tuple[str, int]]:
    with serving(tiny_checkpoint, "--auth-file", str(users)) as running:
        yield running


def test_without_a_login_nothing_is_given_away(app_with_login: tuple[str, int]) -> None:
    address, _ = app_with_login
    event = {"data": [None], "fn_index": 0, "session_hash": "stranger"}
    photo = {"files": ("photo.jpg", b"", "image/jpeg")}
    with httpx.Client(base_url=f"{address}gradio_api/") as stranger:
        refused = [
            stranger.get("config"),
            stranger.get("info"),
            stranger.get("file=/etc/hostname"),
            stranger.get("queue/data", params={"session_hash": "stranger"}),
            stranger.post("queue/join", json=event),
            stranger.post("upload", files=photo),
            stranger.post(
                "component_server", json={"data": {}, "component_id": 1, "fn_name": "look"}
            ),
        ]
    assert {reply.status_code for reply in refused} <= {401, 404}
    page = httpx.get(address).text
    assert "thumbnail" not in page


@pytest.mark.parametrize(
    ("name", "password", "status"),
    [
        ("ada", PASSWORD, 200),
        ("ada", "horse", 400),
        ("grace", PASSWORD, 400),
    ],
)
def test_the_right_password_opens_the_app(
    app_with_login: tuple[str, int], name: str, password: str, status: int
) -> None:
    address, _ = app_with_login
    with httpx.Client(base_url=address) as visitor:
        form = {"username": name, "password": password}
        assert visitor.post("login", data=form).status_code == status
        assert ("thumbnail" in visitor.get("/").text) == (status == 200)


def test_an_app_that_nobody_asks_takes_no_processor(app_with_login: tuple[str, int]) -> None:
    process = psutil.Process(app_with_login[1])
    before, start = process.cpu_times(), time.perf_counter()
    time.sleep(4)
    after, seconds = process.cpu_times(), time.perf_counter() - start
    assert (after.user + after.system - before.user - before.system) / seconds < 0.02


def test_photos_are_nobody_elses_and_gone_when_the_app_is_stopped(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "photos"))
    with serving(tiny_checkpoint) as (address, _):
        photo = {"files": ("photo.jpg", b"a photo", "image/jpeg")}
        (path,) = httpx.post(f"{address}gradio_api/upload", files=photo).json()
        assert Path(path).read_bytes() == b"a photo"
        (folder,) = (tmp_path / "photos").glob("vlm-photos-*")
        assert folder in Path(path).parents
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    ("given", "public"),
    [
        ("/vlm", "/vlm"),
        ("vlm/", "/vlm"),
        ("/photos/vlm", "/photos/vlm"),
        ("/", ""),
        ("", ""),
        ("https://example.org/vlm/", "https://example.org/vlm"),
        ("http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_a_public_path_has_a_slash_before_and_none_behind(given: str, public: str) -> None:
    assert public_path(given) == public


@pytest.mark.parametrize("given", ["/vlm?a=b", "C:\\vlm", "https://", "/my app", "ftp://a/b"])
def test_what_is_no_path_is_refused(given: str) -> None:
    with pytest.raises(UserError, match="is no path of a web address"):
        public_path(given)


def test_a_port_that_is_taken_is_one_sentence(tiny: Captioner) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(tiny, port=port)


def test_the_command_line_writes_accounts_and_never_takes_a_password(tmp_path: Path) -> None:
    file = tmp_path / "users"
    runner = CliRunner()
    command = ["app", "--auth-file", str(file), "--add-user", "ada"]
    done = runner.invoke(app, command, input="horse\nhorse\n")
    assert done.exit_code == 0, done.output
    assert "horse" not in done.output
    assert list(Accounts.read(file).secrets) == ["ada"]
    alone = runner.invoke(app, ["app", "--add-user", "ada"])
    assert alone.exit_code == 2
    assert "--auth-file FILE" in alone.output


def test_a_wrong_file_of_accounts_stops_the_command(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("ada:horse" + os.linesep)
    command = ["app", "--model", str(tiny_checkpoint), "--auth-file", str(file)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: line 1 of {file}")
    assert "horse" not in done.output
