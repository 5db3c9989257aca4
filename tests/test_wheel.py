"""What a wheel gives in an environment of its own: one package, one command, and all that the command offers."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from documentation import ROOT

import vlm
from benchmarks.running import free_port

pytestmark = pytest.mark.slow

DOG = ROOT / "assets" / "examples" / "dog.jpg"
FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, ROOT], check=True)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel, which borrows what the wheel needs from this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    programs = folder / "bin"
    install = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet"]
    subprocess.run([*install, "--no-deps", wheel], check=True)
    # Python reads no .pth files in a folder that a .pth file names: an editable install there stays out.
    (packages,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    return programs


@pytest.fixture
def command(programs: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """A program of that environment, in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def start(program: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [programs / program, *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def run(command: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    def output(program: str, *arguments: object) -> str:
        with command(program, *arguments) as process:
            out, errors = process.communicate()
        assert process.returncode == 0, errors
        return out

    return output


def test_it_owns_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith("/RECORD")]
        rows = csv.reader(archive.read(record).decode().splitlines())
    tops = {name.split("/")[0] for name, *_ in rows}
    assert tops == {"vlm", record.split("/")[0]}


def test_it_is_the_wheel_that_runs(run: Callable[..., str], programs: Path) -> None:
    place = run("python", "-c", "import vlm; print(vlm.__file__)")
    assert place.startswith(str(programs.parent))
    assert run("vlm", "--version") == f"vlm {vlm.__version__}\n"


def test_it_captions_and_answers_with_the_model_that_it_brings(run: Callable[..., str]) -> None:
    said = vlm.load().encode(DOG)
    assert run("vlm", "caption", DOG) == said.caption().text + "\n"
    record = json.loads(run("vlm", "ask", DOG, "what is in the picture?", "--json"))
    assert record["answer"] == said.ask("what is in the picture?").text


def test_it_serves_the_app(command: Callable[..., subprocess.Popen[str]]) -> None:
    port = free_port()
    with command("vlm", "app", "--port", port) as process:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
        page = httpx.get(f"http://127.0.0.1:{port}/")
        process.send_signal(signal.SIGINT)
    assert page.status_code == 200
    assert "dog" in page.text  # an example photo


def test_it_evaluates_looks_at_data_and_trains(run: Callable[..., str], tmp_path: Path) -> None:
    flickr = ["--data", FIXTURES / "flickr8k", "--split", "test"]
    scores = json.loads(run("vlm", "evaluate", "--task", "caption", *flickr, "--json"))
    assert scores["n"] > 0
    assert "records" in run("vlm", "prepare", "stats", FIXTURES / "kohya")
    recipe = run("vlm", "train", "finetune", "--data", FIXTURES / "kohya", "--dry-run")
    assert "init: small" in recipe


def test_its_help_names_every_command_and_loads_none(run: Callable[..., str]) -> None:
    code = "import sys; from vlm.cli import app; assert not {'torch', 'vlm.training'} & set(sys.modules)"
    run("python", "-c", code)
    text = run("vlm", "--help")
    for name in ("caption", "ask", "explain", "app", "evaluate", "train", "prepare"):
        assert f" {name} " in text
        assert f"vlm {name}" in run("vlm", name, "--help")
