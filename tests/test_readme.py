"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from documentation import ROOT, blocks, commands, run

README = (ROOT / "README.md").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The README's files in a folder that the commands may write to."""
    for name in ("assets", "training"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("Makefile", "app.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


# These serve until they are stopped, or take hours.
LONG = ("vlm app", "vlm evaluate", "vlm train", "vlm prepare")


@pytest.mark.parametrize(
    "command", [c for c in commands(README) if c.startswith("vlm ") and not c.startswith(LONG)]
)
def test_vlm_commands(command, checkout):
    result = run(command, checkout)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("command", [c for c in commands(README) if c.startswith("make ")])
def test_make_targets_exist(command, checkout):
    assert run(f"{command} --dry-run", checkout).returncode == 0


@pytest.mark.parametrize("command", [c for c in commands(README) if c.startswith(LONG)])
def test_long_commands_know_their_options(command, checkout):
    program, name, *rest = shlex.split(command)
    text = run(f"COLUMNS=200 {program} {name} --help", checkout)
    assert text.returncode == 0, text.stderr
    for option in (word.split("=")[0] for word in rest if word.startswith("--")):
        assert f"{option} " in text.stdout


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_exists(page):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:vlm|training|tests|docs|assets)/[\w./-]*)`", text))
    named |= set(re.findall(r"\]\((?!http)([^)#]+)", text))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("command", ["make wheel", "make check", "make screenshots"])
def test_other_make_targets_exist(command, checkout):
    assert run(f"{command} --dry-run", checkout).returncode == 0


def test_app_py_is_vlm_app(checkout):
    own, other = (run(f"COLUMNS=200 {c} --help", checkout) for c in ("python app.py", "vlm app"))
    assert own.returncode == other.returncode == 0
    assert own.stdout.split("Options")[1] == other.stdout.split("Options")[1]


def test_every_command_is_one_that_is_tested():
    known = ("vlm ", "make ", "pip install -e .")
    assert [c for c in commands(README) if not c.startswith(known)] == []


def test_python(checkout):
    (checkout / "readme.py").write_text("\n".join(blocks(README, "python")))
    result = run(f"{shlex.quote(sys.executable)} readme.py", checkout)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


INSTALL = re.compile(
    r"\b(?:pip3?|pipx|uv)\b[^\n]*?\b(?:install|add|download|wheel|run)\b([^\n`&|;]*)"
)


def by_name(text: str) -> list[str]:
    """What a text has installed from the package index under this project's names."""
    found = re.findall(r"\bvlm\[\w+\]", text)
    for arguments in INSTALL.findall(text):
        words = re.findall(r"[^\s`'\"()|;,]+", arguments)
        found += [w for w in words if re.match(r"(vlm|lookword)(\[|[=<>~!@]|$)", w)]
    return found


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("run: pip install vlm", True),
        ("pip install -U 'vlm[ray]'", True),
        ("uv pip install lookword==0.1", True),
        ("every machine needs `vlm[ray]`", True),
        ('pip install -e ".[ray]"', False),
        ('pip install "dist/lookword-0.1.0-py3-none-any.whl[ray]"', False),
        ("`pip install torch`, and then `vlm caption photos`", False),
    ],
)
def test_an_installation_by_name_is_seen(text, wrong):
    assert bool(by_name(text)) == wrong


def test_nothing_has_a_strangers_package_installed():
    """`vlm` on the package index is another project, and until it is published `lookword` is nobody's."""
    ending = {".py", ".md", ".toml", ".yaml", ".yml", ".html", ".js", ".sh", ""}
    skipped = {"dist", "build", "runs", "cache", "__pycache__"}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = parts[0].startswith(".") and parts[0] not in (".ci", ".pre-commit-config.yaml")
        if hidden or skipped & set(parts) or path.suffix not in ending or not path.is_file():
            continue
        if path != Path(__file__).resolve():
            assert by_name(path.read_text(errors="replace")) == [], path


def test_every_extra_that_is_named_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] != "vlm"
    (itself,) = (
        r for r in project["optional-dependencies"]["test"] if r.startswith(project["name"])
    )
    named = set(re.findall(r"\w+", itself.partition("[")[2]))
    for path in [*ROOT.glob("vlm/**/*.py"), *ROOT.glob("training/**/*.py")]:
        named |= set(re.findall(r"how_to_install\(['\"](\w+)", path.read_text()))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("training/*.md")]:
        named |= set(re.findall(r"(?:\.|whl)\[(\w+)\]", path.read_text()))
    assert named <= project["optional-dependencies"].keys()
    assert {"train", "ray", "openvino"} <= named
