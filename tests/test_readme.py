"""What the README tells people to type works."""

from __future__ import annotations

import shlex
import shutil
import sys
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


@pytest.mark.parametrize("command", [c for c in commands(README) if c.startswith("vlm ")])
def test_vlm_commands(command, checkout):
    result = run(command, checkout)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("command", [c for c in commands(README) if c.startswith("make ")])
def test_make_targets_exist(command, checkout):
    assert run(f"{command} --dry-run", checkout).returncode == 0


def test_the_app_starts(checkout):
    assert "python app.py" in commands(README)
    assert run("python app.py --help", checkout).returncode == 0


@pytest.mark.parametrize(
    "command", [c for c in commands(README) if c.startswith("python -m training.")]
)
def test_training_commands_know_their_options(command, checkout):
    """The runs take hours; that every option they name exists is checked in a second."""
    words = shlex.split(command)
    text = run(f"{words[0]} -m {words[2]} --help", checkout)
    assert text.returncode == 0, text.stderr
    for option in (word.split("=")[0] for word in words[3:] if word.startswith("--")):
        assert option in text.stdout


def test_every_command_is_one_that_is_tested():
    known = ("vlm ", "make ", "python app.py", "python -m training.", "pip install -e .")
    assert [c for c in commands(README) if not c.startswith(known)] == []


def test_python(checkout):
    (checkout / "readme.py").write_text("\n".join(blocks(README, "python")))
    result = run(f"{shlex.quote(sys.executable)} readme.py", checkout)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
