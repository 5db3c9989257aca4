"""The Folder tab without a browser: rows, find and replace, undo, and files in and out."""

from __future__ import annotations

import json
import math
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from vlm.app.folder_files import MAX_UNPACKED, taken_in, written
from vlm.app.folder_rows import Query, Row, Sheet, SheetError
from vlm.folder.beside import Existing
from vlm.folder.photo_metadata import Place
from vlm.folder.wording import Wording
from vlm.folder.written import Said, Where
from vlm.images.files import LeftOut

EXAMPLE = Path(__file__).resolve().parent.parent / "assets" / "examples" / "dog.jpg"


def row(name: str, caption: str, confidence: float, verdict: str | None) -> Row:
    return Row(name, f"/x/{name}", Said((caption,), 0.01, math.log(confidence), verdict), caption)


@pytest.fixture
def sheet():
    return Sheet(
        [
            row("2.jpg", "a Dog runs", 0.9, "sure"),
            row("10.jpg", "two dogs and a cat sit", 0.2, "guess"),
            row("cats.jpg", "a sofa", 0.5, "unsure"),
            Row("new.jpg", "/x/new.jpg"),
        ]
    )


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({}, [0, 1, 2, 3]),
        ({"text": "dog"}, [0, 1]),
        ({"text": "CAT"}, [1, 2]),
        ({"shortest": 3}, [0, 1]),
        ({"longest": 3}, [0, 2]),
        ({"least": 0.5}, [0, 2]),
        ({"most": 0.5}, [1, 2]),
        ({"verdicts": ["guess", "unsure"]}, [1, 2]),
        ({"order": "confidence"}, [1, 2, 0, 3]),
        ({"order": "confidence", "descending": True}, [0, 2, 1, 3]),
        ({"order": "length"}, [2, 0, 1, 3]),
        ({"order": "verdict"}, [1, 2, 0, 3]),
        ({"order": "caption", "least": 0.1}, [0, 2, 1]),
        ({"text": "dog", "order": "length", "descending": True}, [1, 0]),
    ],
)
def test_what_is_shown(sheet, asked, shown):
    assert sheet.shown(Query.of(asked)) == shown


@pytest.mark.parametrize("asked", [{"least": "much"}, {"order": "size"}, {"shortest": 1.5}])
def test_a_wrong_query_is_a_sentence(asked):
    with pytest.raises(SheetError, match=next(iter(asked))):
        Query.of(asked)


@pytest.mark.parametrize(
    ("find", "by", "regular", "after"),
    [
        ("Dog", "cat", False, {0: "a cat runs"}),
        ("a", "a.b", False, {0: "a.b Dog runs", 1: "two dogs a.bnd a.b ca.bt sit"}),
        (r"(?i)\bdogs?\b", r"<\g<0>>", True, {0: "a <Dog> runs", 1: "two <dogs> and a cat sit"}),
        (r"^(\w+) (\w+)", r"\2 \1", True, {0: "Dog a runs", 1: "dogs two and a cat sit"}),
        (" runs", "", False, {0: "a Dog"}),
        (r"\d", "", True, {}),
        ("a", r"\1", False, {0: r"\1 Dog runs", 1: r"two dogs \1nd \1 c\1t sit"}),
    ],
)
def test_replacements_are_shown_made_and_taken_back(sheet, find, by, regular, after):
    before = [r.caption for r in sheet.rows]
    changes = sheet.replacements([0, 1], find, by, regular)
    assert {c.row: c.after for c in changes} == after
    assert [r.caption for r in sheet.rows] == before
    sheet.apply(changes)
    assert {n: sheet.rows[n].caption for n in after} == after
    if changes:
        assert sheet.undo() == len(changes)
    assert [r.caption for r in sheet.rows] == before
    assert not sheet.can_undo


@pytest.mark.parametrize(
    ("find", "by", "says"),
    [("", "x", "say what"), ("(", "x", "no regular"), ("a", r"\3", "(no regular|names a group)")],
)
def test_what_cannot_be_replaced_is_a_sentence(sheet, find, by, says):
    with pytest.raises(SheetError, match=says):
        sheet.replacements([0], find, by, True)


def test_an_endless_expression_ends(monkeypatch):
    sheet = Sheet([row("a", "a" * 60 + "!", 1, None)])
    monkeypatch.setattr("vlm.app.folder_rows.PATIENCE", 0.2)
    start = time.monotonic()
    with pytest.raises(SheetError, match="too long"):
        sheet.replacements([0], r"(a|aa)+$", "", True)
    assert time.monotonic() - start < 5


def test_edits_are_taken_back_one_by_one_and_a_rerun_is_not_lost(sheet):
    sheet.edit(0, "  mine\n too ")
    sheet.edit(1, "hers")
    assert [r.caption for r in sheet.rows[:2]] == ["mine too", "hers"]
    assert sheet.rows[0].edited
    sheet.said(1, Said(("by the model",), 0.5, -1.0, None))
    assert sheet.undo() == 0
    assert sheet.rows[1].caption == "by the model"
    assert sheet.undo() == 1
    assert sheet.rows[0].caption == "a Dog runs"
    with pytest.raises(SheetError):
        sheet.undo()
    with pytest.raises(SheetError):
        sheet.edit(3, "no caption yet")
    with pytest.raises(SheetError):
        sheet.edit(9, "no such row")


def zipped(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def test_files_folders_and_zips_are_taken_in(tmp_path):
    names = ["a/10.jpg", "a/2.jpg", "../../up.png", "/abs.gif", "b\\win.bmp", "a/2.txt"]
    archive = zipped(
        tmp_path / "x.zip", [*names, ".hidden.jpg", "__MACOSX/a.jpg", "notes.doc", "a/"]
    )
    (tmp_path / "broken.zip").write_bytes(b"PK")
    (tmp_path / "1.jpg").write_text("photo")
    home, left_out, problems = tmp_path / "home", LeftOut(), []
    home.mkdir()
    files = [
        (archive, "x.zip"),
        (tmp_path / "1.jpg", "walk/1.jpg"),
        (tmp_path / "broken.zip", "broken.zip"),
    ]
    found = taken_in(files, home, left_out, problems)
    assert found == ["a/2.jpg", "a/10.jpg", "abs.gif", "b/win.bmp", "up.png", "walk/1.jpg"]
    assert (home / "a" / "2.txt").read_text() == "a/2.txt"
    assert left_out == {"hidden": 2, ".doc": 1}
    assert len(problems) == 1
    assert "broken.zip" in problems[0]
    assert {p.name for p in tmp_path.iterdir()} == {"x.zip", "broken.zip", "1.jpg", "home"}


def test_a_zip_of_endless_zeros_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm.app.folder_files.MAX_UNPACKED", 1000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(100_000))
    (tmp_path / "home").mkdir()
    with pytest.raises(SheetError, match="holds more than"):
        taken_in([(tmp_path / "x.zip", "x.zip")], tmp_path / "home", LeftOut(), [])
    assert MAX_UNPACKED > 10**9


def test_what_is_taken_home_is_what_the_command_line_writes(tmp_path):
    home = tmp_path / "in"
    (home / "pets").mkdir(parents=True)
    names = ["pets/1.jpg", "pets/2.jpg", "3.jpg"]
    for name in names:
        shutil.copy(EXAMPLE, home / name)
    (home / "pets" / "2.txt").write_text("mine")
    rows = [
        Row(
            name,
            str(home / name),
            Said((f"a dog {n}", "another"), 0.5, -1.0, "sure"),
            f"edited {n}",
        )
        for n, name in enumerate(names[:2])
    ]
    rows.append(Row(names[2], str(home / names[2])))
    problems = []
    where = Where(None, Existing.append, Place.sidecar, wording=Wording(prefix="{folder}:"))
    packed = written(rows, where, ["csv", "metadata"], tmp_path, problems)
    assert problems == []
    with zipfile.ZipFile(packed) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    beside = {f"pets/{n}.{end}" for n in (1, 2) for end in ("txt", "jpg.xmp")}
    assert set(texts) == {"captions.csv", "metadata.jsonl", *beside}
    assert texts["pets/1.txt"] == "pets: edited 0\npets: another\n"
    assert texts["pets/2.txt"].startswith("mine, pets: edited 1")
    first = json.loads(texts["metadata.jsonl"].splitlines()[0])
    assert (first["file_name"], first["text"]) == ("pets/1.jpg", "pets: edited 0")
    assert "pets: edited 0" in texts["pets/1.jpg.xmp"]
    assert (home / "pets" / "2.txt").read_text() == "mine"
    assert not (home / "pets" / "1.jpg.xmp").exists()

    embedded = written(rows, Where(metadata=Place.embed), [], tmp_path, problems)
    with zipfile.ZipFile(embedded) as archive:
        assert b"edited 0" in archive.read("pets/1.jpg")
    assert (home / "pets" / "1.jpg").read_bytes() == EXAMPLE.read_bytes()


@pytest.mark.parametrize(
    ("rows", "says"), [([], "no photo has"), ([row("a", "b", 1, None)], "choose")]
)
def test_nothing_to_write_is_a_sentence(tmp_path, rows, says):
    with pytest.raises(SheetError, match=says):
        written(rows, Where(), [], tmp_path, [])
