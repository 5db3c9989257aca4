"""What docs/folders.md tells people to type works."""

from __future__ import annotations

import shutil

import pytest
from documentation import ROOT, commands, run

PAGE = (ROOT / "docs" / "folders.md").read_text()


@pytest.mark.parametrize("command", [c for c in commands(PAGE) if not c.startswith("vlm app")])
def test_commands(command, tmp_path):
    shutil.copytree(ROOT / "assets" / "examples", tmp_path / "assets" / "examples")
    before = set(tmp_path.rglob("*"))
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert set(tmp_path.rglob("*")) > before
