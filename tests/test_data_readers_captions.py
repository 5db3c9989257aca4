from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from training.data.readers import read
from training.data.records import DataError

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
