"""The Dockerfile, read: what it copies makes the package, what it starts is served, and what it holds is small."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from documentation import ROOT, blocks, run
from packaging.requirements import Requirement
from served import served

from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.server.settings import Settings
from vlm.server.web import application

MOST_BYTES = 1.5e9
BASE_BYTES = 0.13e9  # python:3.12-slim, unpacked
# What the builds of torch for CUDA have beside those for CPUs: files of torch, and packages.
CUDA_FILES = re.compile(r"libtorch_cuda|libc10_cuda|nvshmem|cuda_linalg|nvrtc")
CUDA_PACKAGES = ("nvidia-", "triton", "cuda-")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the file, each with its arguments."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def last(name: str) -> str:
    return [arguments for found, arguments in instructions() if found == name][-1]


def extras() -> list[str]:
    (install,) = [a for n, a in instructions() if n == "RUN" and '".[' in a]
    return re.findall(r"\.\[([\w,]+)\]", install)[0].split(",")


def test_what_is_copied_makes_a_wheel_with_the_model_in_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            *files, target = arguments.split()
            for file in files:
                if (ROOT / file).is_dir():
                    shutil.copytree(ROOT / file, source / target)
                else:
                    shutil.copy(ROOT / file, source / target)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "vlm/assets/small/model.safetensors" in names
    assert "vlm/server/web.py" in names
    assert set(extras()) <= set(project()["optional-dependencies"])


def test_nothing_that_is_copied_is_ignored() -> None:
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    copied = [
        part
        for name, arguments in instructions()
        if name == "COPY" and "--from" not in arguments
        for part in arguments.split()[:-1]
    ]
    for part in copied:
        assert any(name == part or name.startswith(f"{part}/") for name in kept), part


def test_it_runs_as_nobody_and_what_it_starts_knows_its_options(tmp_path: Path) -> None:
    assert int(last("USER")) >= 1000  # by number, so that an orchestrator sees that it is not root
    command = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    assert command[:2] == ["vlm", "serve"]
    text = run(shlex.join([*command[:2], "--help"]), tmp_path).stdout
    assert all(option in text for option in command if option.startswith("--"))
    assert last("EXPOSE") in text  # the port that is listened on by default


def test_the_unit_of_the_documentation_is_one(tmp_path: Path) -> None:
    (unit,) = blocks((ROOT / "docs" / "serving.md").read_text(), "ini")
    (command,) = re.findall(r"^ExecStart=\S+/(vlm .*)$", unit, re.MULTILINE)
    program, name, *rest = command.split()
    text = run(f"{program} {name} --help", tmp_path).stdout
    assert all(option in text for option in rest if option.startswith("--"))
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("no systemd on this machine")
    file = tmp_path / "vlm.service"
    file.write_text(unit.replace("/opt/vlm/bin/vlm", sys.executable))
    said = subprocess.run([verify, "verify", file], capture_output=True, text=True)
    assert "vlm.service" not in said.stderr


@pytest.fixture(scope="module")
def check() -> list[str]:
    """The command of the health check."""
    return json.loads(last("HEALTHCHECK").split("CMD", 1)[1])


@pytest.fixture(scope="module")
def address(tiny: Captioner) -> Iterator[tuple[str, Engine]]:
    with Engine(tiny) as engine, served(application(engine, Settings("tiny"))) as address:
        yield address, engine


def test_its_health_check_tells_a_server_that_works(
    address: tuple[str, Engine], check: list[str]
) -> None:
    url, engine = address

    def healthy(url: str) -> bool:
        command = [part.replace("http://127.0.0.1:7860", url) for part in check]
        assert command != check
        return subprocess.run([sys.executable, *command[1:]], capture_output=True).returncode == 0

    assert healthy(url)
    engine.close()
    assert not healthy(url)
    assert not healthy("http://127.0.0.1:9")


def project() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def sizes(requirements: list[str]) -> dict[str, int]:
    """The bytes of each package that some need, but for what builds for CUDA have besides; from what is installed."""
    waiting = [Requirement(text) for text in requirements]
    found: dict[str, int] = {}
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found or name.startswith(CUDA_PACKAGES):
            continue
        package = importlib.metadata.distribution(name)
        files = [
            package.locate_file(f) for f in package.files or () if not CUDA_FILES.search(str(f))
        ]
        found[name] = sum(Path(str(f)).stat().st_size for f in files if Path(str(f)).is_file())
        for text in package.requires or ():
            needed = Requirement(text)
            marked = needed.marker
            if marked is None or any(marked.evaluate({"extra": e}) for e in ("", *wanted.extras)):
                waiting.append(needed)
    return found


def test_all_of_it_takes_no_more_room_than_it_says() -> None:
    found = project()
    wanted = list(found["dependencies"])
    for extra in extras():
        wanted += found["optional-dependencies"][extra]
    own = ["vlm", "training", "assets/small", "assets/examples"]
    files = [f for name in own for f in (ROOT / name).rglob("*") if f.is_file()]
    total = sum(sizes(wanted).values()) + sum(f.stat().st_size for f in files)
    assert 0.5e9 < total < MOST_BYTES - BASE_BYTES
