"""`vlm index`: what a person types, and reads."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from vlm.cli import app


@pytest.fixture
def vlm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mill.txt").write_text("The mill was built by Anna Vost in 1823.")
    (tmp_path / "notes" / "sea.md").write_text("# Sea\n\nThe *Gull* has three masts.")

    def run(*arguments: str, code: int = 0):
        result = CliRunner().invoke(app, ["index", *arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


def test_add_search_list_remove(vlm, tmp_path):
    assert "2 new; 2 passages more, 2 in all" in vlm("add", "notes").stdout
    assert "2 as they were; 0 passages more" in vlm("add", "notes").stdout
    lines = vlm("search", "who constructed the mill?", "-k", "1").stdout.splitlines()
    assert lines == [
        str(tmp_path / "notes" / "mill.txt"),
        "  The mill was built by Anna Vost in 1823.",
    ]
    found = json.loads(vlm("search", "masts", "--by", "words", "--json").stdout)
    assert (found["text"], found["page"]) == ("Sea\n\nThe Gull has three masts.", None)
    assert len(vlm("list").stdout.splitlines()) == 2
    assert "is forgotten" in vlm("remove", "notes/sea.md").stdout
    assert json.loads(vlm("list", "--json").stdout)["passages"] == 1
    assert vlm("remove", "notes").stdout.count("forgotten") == 1
    assert vlm("list").stdout == ""
    assert "no passage was found" in vlm("search", "mill", "--by", "words").stderr


def test_problems_are_told(vlm, tmp_path):
    (tmp_path / "notes" / "bad.pdf").write_text("no")
    result = vlm("add", "notes", "gone.txt", code=1)
    assert "2 new" in result.stdout
    assert "bad.pdf is damaged" in result.stderr
    assert "gone.txt: no such file" in result.stderr
    assert "has no x.txt" in vlm("remove", "x.txt", code=2).stderr
    assert "not sound" in vlm("search", "mill", "--by", "sound", code=2).stderr
    assert "nothing to search for" in vlm("search", " ", code=2).stderr
    assert "there is no index" in vlm("list", "--index", "other.db", code=2).stderr
    assert "no index" in vlm("add", "notes", "--index", "notes/mill.txt", code=2).stderr
