from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from training.data.readers import read
from training.data.records import DataError
from training.data.report import Report

FIXTURES = Path(__file__).parent / "fixtures"


def open_image(record):
    return Image.open(io.BytesIO(record.image.read()))


def test_coco_groups_captions_by_image_id():
    records = list(read(FIXTURES / "coco", split="val"))
    assert [(record.id, len(record.texts)) for record in records] == [("73", 2), ("42", 1)]
    assert records[1].texts == ("A red square.",)
    assert open_image(records[1]).size == (24, 18)
    file = FIXTURES / "coco" / "annotations" / "captions_val2014.json"
    assert list(read(file, "coco")) == records


def test_coco_annotation_of_an_unknown_image_is_broken(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [
            {"image_id": 1, "id": 1, "caption": "A square."},
            {"image_id": 2, "id": 2, "caption": "A circle."},
        ],
    }
    (tmp_path / "images").mkdir()
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    report = Report(limit=0.5)
    (record,) = read(file, "coco", report=report)
    assert record.texts == ("A square.",)
    assert [broken.where for broken in report.broken] == [f"{file}, entry 1"]
    with pytest.raises(DataError, match="entry 1: its 'image_id' 2 is none of the ids in 'images'"):
        list(read(file, "coco"))


def test_karpathy_train_has_restval_unless_refused():
    folder = FIXTURES / "karpathy"
    assert [record.id for record in read(folder, split="train")] == ["73", "9"]
    assert [record.id for record in read(folder, split="train", restval=False)] == ["9"]
    assert [record.id for record in read(folder, split="restval")] == ["73"]
    (record,) = read(folder, split="test")
    assert record.texts == ("A red square.", "The square is red.")
    assert record.source == "coco"
    assert open_image(record).size == (24, 18)


def test_textcaps_has_one_record_an_image_with_all_its_references():
    records = list(read(FIXTURES / "textcaps", split="train"))
    assert [record.id for record in records] == ["0054c91397f2fe05", "005635e119b9f32f"]
    assert records[0].texts == ("A sign that says stop.", "An orange sign with the word stop.")
    assert open_image(records[0]).size == (24, 18)
    (test,) = read(FIXTURES / "textcaps", split="test")
    assert test.texts == ()
    assert open_image(test).size == (24, 18)
