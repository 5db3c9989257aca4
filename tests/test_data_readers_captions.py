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


def test_flickr8k_groups_captions_by_image_and_keeps_the_official_split():
    train = list(read(FIXTURES / "flickr8k", "flickr8k", "train"))
    assert [record.id for record in train] == ["1000_a.jpg", "1001_b.jpg"]
    assert train[0].texts == (
        "A red square lies on a grey table .",
        "One red square , seen from above .",
    )
    assert train[0].question is None
    assert train[0].source == "flickr8k"
    assert open_image(train[0]).size == (24, 18)
    parts = [
        {record.image.key for record in read(FIXTURES / "flickr8k", split=split)}
        for split in ("train", "dev", "test", "all")
    ]
    assert parts[0] | parts[1] | parts[2] == parts[3]
    assert sum(map(len, parts[:3])) == len(parts[3]) == 4


def test_flickr8k_takes_val_for_dev_and_the_token_file_for_the_folder():
    tokens = FIXTURES / "flickr8k" / "Flickr8k.token.txt"
    assert [record.id for record in read(tokens, split="val")] == ["1002_c.jpg"]


def test_flickr8k_real_data_has_the_official_counts(data_dir):
    keys: set[str] = set()
    for split, count in (("train", 6000), ("dev", 1000), ("test", 1000)):
        records = list(read(data_dir / "flickr8k", split=split))
        assert len(records) == count
        assert all(len(record.texts) == 5 for record in records)
        assert all(Path(record.image.path).is_file() for record in records)
        assert keys.isdisjoint(record.image.key for record in records)
        keys |= {record.image.key for record in records}
    assert len(list(read(data_dir / "flickr8k", split="all"))) == 8091


def test_missing_split_names_those_that_exist():
    with pytest.raises(DataError, match="no split 'holdout'; it has dev, test, train, all"):
        list(read(FIXTURES / "flickr8k", split="holdout"))


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
    with pytest.raises(DataError, match="entry 1: the key 2 is missing"):
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


def test_kaggle_captions_may_hold_commas_and_quotes():
    records = {record.id: record for record in read(FIXTURES / "kaggle", split="all")}
    assert len(records) == 10
    assert records["100_k.jpg"].texts == (
        'A sign says " red " beside a red square .',
        "A square , red , on a table .",
    )
    assert open_image(records["100_k.jpg"]).size == (24, 18)


def test_kaggle_without_lists_holds_out_one_image_in_ten():
    ids = {
        split: [record.id for record in read(FIXTURES / "kaggle", split=split)]
        for split in ("train", "dev", "test")
    }
    assert len(ids["train"]) == 8
    assert (ids["dev"], ids["test"]) == (["108_k.jpg"], ["109_k.jpg"])


def test_kaggle_form_of_flickr8k_equals_the_token_file(data_dir):
    folder = data_dir / "flickr8k"
    kaggle = {r.id: r.texts for r in read(folder, "kaggle", "train")}
    tokens = {r.id: r.texts for r in read(folder, "flickr8k", "train")}
    assert kaggle.keys() == tokens.keys()
    pairs = [(a, b) for name in kaggle for a, b in zip(kaggle[name], tokens[name], strict=True)]
    different = [(a, b) for a, b in pairs if a != b]
    assert len(different) == 10  # captions that end in a quotation, whose last mark one file lacks
    assert all(b == f'{a} "' for a, b in different)


def test_flickr8k_takes_off_the_quotes_of_a_csv_writer(tmp_path):
    (tmp_path / "images").mkdir()
    lines = [
        'a.jpg#0\t"A dog , by the shore ."',
        'a.jpg#1\t"A bag that says """" sale """" ."',
        'a.jpg#2\tA bag that says " sale " .',
        'a.jpg#3\t"Stop" is on one sign , on the other "go"',
    ]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines))
    (record,) = read(tmp_path, split="all")
    assert record.texts == (
        "A dog , by the shore .",
        'A bag that says " sale " .',
        'A bag that says " sale " .',
        '"Stop" is on one sign , on the other "go"',
    )


def test_flickr30k_reads_its_malformed_row_and_bars_in_captions():
    records = {record.id: record for record in read(FIXTURES / "flickr30k", split="all")}
    assert records["2199200615.jpg"].texts == (
        "A white square .",
        "A white square lies on the table .",
    )
    assert records["501.jpg"].texts[1] == "Two sides | of one green square ."
    assert open_image(records["500.jpg"]).size == (24, 18)


def test_textcaps_has_one_record_an_image_with_all_its_references():
    records = list(read(FIXTURES / "textcaps", split="train"))
    assert [record.id for record in records] == ["0054c91397f2fe05", "005635e119b9f32f"]
    assert records[0].texts == ("A sign that says stop.", "An orange sign with the word stop.")
    assert open_image(records[0]).size == (24, 18)
    (test,) = read(FIXTURES / "textcaps", split="test")
    assert test.texts == ()
    assert open_image(test).size == (24, 18)
