from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from training.data.readers import read
from training.data.records import Box, DataError, ImageRef, Record
from training.data.report import Report
from training.data.webdataset import write_shards

FIXTURES = Path(__file__).parent / "fixtures"
BOX = ("label", "left", "top", "right", "bottom")
PICTURE = (FIXTURES / "kohya" / "5_square" / "0.png").read_bytes()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def same_but_image(a: Record, b: Record) -> bool:
    return {**vars(a), "image": None} == {**vars(b), "image": None}


@pytest.mark.parametrize(("source", "split"), [("flickr8k", "all"), ("vqa_v2", "train")])
def test_records_and_bytes_survive_the_round_trip(tmp_path, source, split):
    before = list(read(FIXTURES / source, split=split))
    shards = write_shards(before, tmp_path, "train", images_per_shard=2)
    after = list(read(tmp_path, split="train"))
    images = len({record.image.key for record in before})
    assert len(shards) == (images + 1) // 2
    assert len(after) == len(before)
    assert all(same_but_image(a, b) for a, b in zip(before, after, strict=True))
    assert [r.image.read() for r in after] == [r.image.read() for r in before]
    assert len({record.image.key for record in after}) == images  # an image is stored once


def test_every_field_survives(tmp_path):
    record = Record(
        ImageRef("memory", data=PICTURE),
        ("yes", "no"),
        question="Is it red?",
        weight=0.5,
        boxes=(Box("square", 1, 2, 3, 4),),
        id="7",
        source="mine",
        kind="yes/no",
        synthetic=True,
    )
    write_shards([record], tmp_path, "dev")
    (after,) = read(tmp_path, split="val")
    assert same_but_image(record, after)


def test_equal_records_give_equal_shards(tmp_path):
    records = list(read(FIXTURES / "flickr8k", split="all"))
    (a,) = write_shards(records, tmp_path / "a", "train")
    (b,) = write_shards(records, tmp_path / "b", "train")
    assert a.read_bytes() == b.read_bytes()


def test_a_corrupt_image_is_reported_and_left_out(tmp_path):
    records = [
        Record(ImageRef("good", data=PICTURE), ("a",)),
        Record(ImageRef("bad", data=PICTURE[: len(PICTURE) // 2]), ("b",)),
        Record(ImageRef(str(tmp_path / "gone.png")), ("c",)),
    ]
    report = Report(limit=0.9)
    write_shards(records, tmp_path, "train", report=report)
    assert [record.texts for record in read(tmp_path)] == [("a",)]
    assert [broken.where for broken in report.broken] == ["bad", str(tmp_path / "gone.png")]
    with pytest.raises(DataError, match="bad: "):
        write_shards(records, tmp_path / "strict", "train")
    assert not list((tmp_path / "strict").glob("*.tar"))  # no half shard under its final name


def test_shards_are_not_mixed_with_older_ones(tmp_path):
    records = list(read(FIXTURES / "flickr8k", split="all"))
    write_shards(records, tmp_path, "train")
    with pytest.raises(DataError, match="already has shards of train"):
        write_shards(records, tmp_path, "train")


def test_public_forms_of_a_sample(tmp_path):
    files = {
        "part/000.jpg": PICTURE,
        "part/000.txt": b"a red square\n",
        "part/000.json": json.dumps({"caption": "not this", "width": 24}).encode(),
        "part/001.png": PICTURE,
        "part/001.json": json.dumps({"caption": "a square"}).encode(),
        "part/002.seg.png": PICTURE,
        "part/002.txt": b"no image of its own",
    }
    write_tar(tmp_path / "00000.tar", files)
    report = Report(limit=0.5)
    records = list(read(tmp_path / "00000.tar", report=report))
    assert [record.texts for record in records] == [("a red square",), ("a square",)]
    assert [record.id for record in records] == ["part/000", "part/001"]
    assert records[1].image.read() == PICTURE
    (broken,) = report.broken
    assert broken.where.endswith("sample part/002")
    assert broken.reason == "it has no image"
    with pytest.raises(DataError, match="no split 'train'; it has all"):
        list(read(tmp_path))


def test_dots_in_the_names_of_members(tmp_path):
    files = {
        "IMG.2020.01.jpg": PICTURE,
        "IMG.2020.01.txt": b"one",
        "IMG.2020.02.jpg": PICTURE,
        "IMG.2020.02.TXT": b"two",
        "7.depth.png": b"no picture",
        "7.jpg": PICTURE,
        "7.txt": b"seven",
        "._7.jpg": b"of a Mac",
    }
    write_tar(tmp_path / "train-0.tar", files)
    (tmp_path / "README.md").touch()
    report = Report()
    records = list(read(tmp_path, report=report))
    assert [record.texts for record in records] == [("one",), ("two",), ("seven",)]
    assert [record.id for record in records] == ["IMG.2020.01", "IMG.2020.02", "7"]
    assert all(record.image.read() == PICTURE for record in records)
    assert report.unused == {
        "files of other kinds (.md)": 1,
        "files hidden": 1,
        "files second in their sample": 1,
    }


@pytest.mark.parametrize(
    ("kind", "suffix"), [("JPEG2000", ".jp2"), ("AVIF", ".avif"), ("MPO", ".jpg")]
)
def test_a_shard_names_images_by_their_format(tmp_path, kind, suffix):
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, kind)
    record = Record(ImageRef("memory", data=file.getvalue()), ("black",))
    write_shards([record], tmp_path, "train")
    (after,) = read(tmp_path)
    assert after.image.member.endswith(suffix)
    assert after.image.read() == file.getvalue()


def test_splits_are_read_from_names_and_folders(tmp_path):
    for name in ("mine-train-000000.tar", "mine-train-000001.tar", "test/00000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, {"x.png": PICTURE, "x.txt": name.encode()})
    train = [record.texts[0] for record in read(tmp_path, split="train")]
    assert train == ["mine-train-000000.tar", "mine-train-000001.tar"]
    (test,) = read(tmp_path, split="test")
    assert test.texts == ("test/00000.tar",)
    assert len(list(read(tmp_path, split="all"))) == 3


def test_a_truncated_shard_is_used_up_to_where_it_breaks(tmp_path):
    path = tmp_path / "train-000000.tar"
    files = {}
    for i in range(4):
        files |= {f"{i}.png": PICTURE, f"{i}.txt": b"a square"}
    write_tar(path, files)
    whole = path.read_bytes()
    for end in (3 * 2048 + 600, 3 * 2048):  # in the middle of the last image, and in front of it
        path.write_bytes(whole[:end])
        report = Report(limit=0.5)
        records = list(read(path, report=report))
        assert len(records) == 3
        assert all(record.image.read() == PICTURE for record in records)
        assert "not a whole uncompressed tar file" in report.broken[0].reason


def test_images_folder_makes_no_sense_for_shards(tmp_path):
    with pytest.raises(DataError, match="hold their images"):
        list(read(tmp_path, "webdataset", images=tmp_path))


RECORD = {"texts": ["a"], "question": "is it?", "boxes": [dict(zip(BOX, ("x", 1, 2, 3, 4)))]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"caption": ', "it ends too early, at line 1"),
        (b"3", "its 'json' is a number, not an object"),
        (b'{"caption": null}', "it has no caption"),
        (b'{"caption": NaN}', "the caption is missing"),
        (b'{"captions": ["", " "]}', "the caption 1 of 2 is empty; the caption 2 of 2 is empty"),
        (b'{"caption": {"en": "a"}}', "the caption is an object, not a text"),
        (b'{"records": {}}', "its 'records' is an object, not a list"),
        (b'{"records": [3]}', "it is a number where an object with 'texts' is expected"),
        ({"texts": "a"}, "its 'texts' is a text, not a list"),
        ({"question": None}, "its 'question' is null"),
        ({"weight": "much"}, "its 'weight' is \"much\", not a number"),
        ({"boxes": [[1, 2, 3, 4]]}, "it is a list where an object with 'left' is expected"),
        ({"boxes": [{"label": "x", "left": None}]}, "its 'left' is null, not a number"),
        ({"colour": "red"}, "it has 'colour', which no record has"),
        ({"kind": ["a"]}, "its 'kind' is a list, not a text"),
    ],
)
def test_a_sample_of_another_shape_is_named_in_words_of_the_data(
    tmp_path: Path, content: bytes | dict[str, object], said: str
) -> None:
    good = json.dumps({"records": [RECORD]}).encode()
    bad = content if isinstance(content, bytes) else {"records": [RECORD, RECORD | content]}
    bad = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    files = {"0.png": PICTURE, "0.json": good, "1.png": PICTURE, "1.json": bad}
    write_tar(tmp_path / "train-000000.tar", files)
    report = Report(limit=0.5)
    records = list(read(tmp_path, report=report))
    assert len(records) == (1 if isinstance(content, bytes) else 2)  # its sibling is not lost
    (broken,) = report.broken
    assert broken.reason == said
    assert ", sample 1" in broken.where
