"""VizWiz: questions and captions about the same photos, in files of the same names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from training.data.detect import detect_format
from training.data.readers import read
from training.data.records import DataError
from training.data.report import Report

FIXTURES = Path(__file__).parent / "fixtures"


def test_vizwiz_marks_and_leaves_out_unanswerable_questions():
    folder = FIXTURES / "vizwiz"
    records = list(read(folder, split="train"))
    assert [record.kind for record in records] == ["other", "unanswerable"]
    assert records[0].texts == ("red square",) * 9 + ("red",)
    assert records[0].id == "VizWiz_train_00000000.jpg"
    assert records[0].image.read()
    assert list(read(folder, split="train", answerable_only=True)) == records[:1]
    (test,) = read(folder, split="test")
    assert test.texts == ()
    assert test.image.read()


def test_vizwiz_captions_use_those_that_the_evaluation_uses() -> None:
    report = Report(limit=0)
    (record,) = read(FIXTURES / "vizwiz_captions", split="train", report=report)
    assert record.texts == ("A red square lies on a grey table.", "One square, seen from above.")
    assert (record.id, record.source, record.question) == ("0", "vizwiz_captions", None)
    assert record.image.read()
    assert (
        report.summary()
        == "4 good, 0 skipped\nnot used: captions that are rejected or ready-made (2)"
    )
    (test,) = read(FIXTURES / "vizwiz_captions", split="test")
    assert (test.texts, test.id) == ((), "31181")
    assert test.image.read()


@pytest.mark.parametrize(
    "folders", [("Annotations", "annotations"), ("annotations", "Annotations")]
)
def test_captions_beside_questions_are_told_apart_by_their_content(
    tmp_path: Path, folders: tuple[str, str]
) -> None:
    shutil.copytree(FIXTURES / "vizwiz" / "train", tmp_path / "train")
    for format, folder in zip(("vizwiz", "vizwiz_captions"), folders, strict=True):
        (texts,) = (FIXTURES / format).glob("[Aa]nnotations/train.json")
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(texts, tmp_path / folder)
    with pytest.raises(DataError, match=r"several datasets, .*vizwiz .*name the format"):
        detect_format(tmp_path)
    assert {r.question is None for r in read(tmp_path, "vizwiz")} == {False}
    assert {r.question is None for r in read(tmp_path, "vizwiz_captions")} == {True}
