from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from training.data.readers import read
from training.data.records import Box, DataError
from training.data.report import Report

FIXTURES = Path(__file__).parent / "fixtures"


def test_imagefolder_reads_captions_and_boxes_of_a_split_folder():
    records = list(read(FIXTURES / "imagefolder", split="train"))
    assert [record.texts for record in records] == [("A yellow square",), ("One square",)]
    assert records[0].boxes == (Box("3", 6.0, 4.0, 18.0, 14.0),)
    assert records[1].boxes == ()
    assert records[0].id == "0001.png"
    assert records[0].image.read()
    (val,) = read(FIXTURES / "imagefolder", split="val")  # the folder is called validation
    assert val.texts == ("A square on a table",)


def test_imagefolder_csv_without_splits_holds_out_images():
    folder = FIXTURES / "imagefolder_csv"
    ids = {
        split: [record.id for record in read(folder, split=split)]
        for split in ("train", "dev", "test")
    }
    assert len(ids["train"]) == 8
    assert (ids["dev"], ids["test"]) == (["8.png"], ["9.png"])
    record = next(read(folder, split="all"))
    assert record.question == "What colour is the square, please?"
    assert record.texts == ("red",)


def test_imagefolder_parquet_with_several_captions_and_a_column_map(tmp_path):
    shutil.copy(FIXTURES / "kohya" / "5_square" / "0.png", tmp_path / "0.png")
    table = pyarrow.table({"file_name": ["0.png"], "words": [["a red square", "a square"]]})
    pyarrow.parquet.write_table(table, tmp_path / "metadata.parquet")
    (record,) = read(tmp_path, split="all", columns={"text": "words"})
    assert record.texts == ("a red square", "a square")
    with pytest.raises(DataError, match="no text column that is recognised among file_name, words"):
        list(read(tmp_path, split="all"))
    with pytest.raises(DataError, match="no column 'sentence'; it has file_name, words"):
        list(read(tmp_path, split="all", columns={"text": "sentence"}))
    with pytest.raises(DataError, match="the key 'caption'"):
        list(read(tmp_path, split="all", columns={"caption": "words"}))


def test_imagefolder_row_without_a_caption_is_broken(tmp_path):
    (tmp_path / "metadata.csv").write_text(
        "file_name,caption_0,caption_1\na.png,One,Two\nb.png,,\n"
    )
    report = Report(limit=0.5)
    (record,) = read(tmp_path, split="all", report=report)
    assert record.texts == ("One", "Two")
    assert report.broken[0].reason == "the column caption_0 is empty"


def test_kohya_reads_one_caption_a_line_and_holds_out_images():
    folder = FIXTURES / "kohya"
    records = list(read(folder, split="all"))
    assert len(records) == 10
    assert records[0].id == "5_square/0.png"
    assert records[0].texts == ("a red square", "a square on a grey table")
    assert records[0].image.read()
    assert [record.id for record in read(folder, split="test")] == ["5_square/9.png"]
    assert [record.id for record in read(folder, split="val")] == ["5_square/8.png"]
    assert len(list(read(folder, split="train"))) == 8


def test_kohya_takes_split_folders_where_they_are(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        shutil.copy(FIXTURES / "kohya" / "5_square" / "0.png", tmp_path / split / "0.png")
        (tmp_path / split / "0.txt").write_text(f"a picture to {split}")
    assert [r.texts for r in read(tmp_path, "kohya", "test")] == [("a picture to test",)]
    with pytest.raises(DataError, match="no split 'dev'; it has train, test"):
        list(read(tmp_path, "kohya", "dev"))


def test_kohya_image_without_a_text_is_broken(tmp_path):
    for name in ("a", "b"):
        shutil.copy(FIXTURES / "kohya" / "5_square" / "0.png", tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a square")
    report = Report(limit=0.5)
    assert [record.id for record in read(tmp_path, split="all", report=report)] == ["a.png"]
    assert report.broken[0].reason == "b.png has no b.txt beside it"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"text": ""}, "the caption is empty"),
        ({"text": None}, "the caption is missing"),
        ({"text": ["a", {"en": "b"}]}, "a text is an object with en"),
        ({"objects": 3}, "its 'objects' are a number, not an object"),
        ({"objects": {"bbox": [[1, 2, 3, 4]], "categories": []}}, "its 'categories' is empty"),
        (
            {"objects": {"bbox": [[1, 2, 3, 4]] * 2, "categories": ["x"]}},
            "its 'objects' have 2 boxes and 1 labels",
        ),
        (
            {"objects": {"bbox": [[1, 2, 3]], "categories": ["x"]}},
            "a box is [1, 2, 3], not [left, top, width, height]",
        ),
        ({"file_name": None}, "its 'file_name' is null, not the name of a file"),
        ({"file_name": "\0"}, "its 'file_name' is \"\\u0000\", which names no file"),
        ({"answer_type": {}}, "its 'answer_type' is an object, not a text"),
    ],
)
def test_imagefolder_row_of_another_shape_is_named_in_words_of_the_data(
    tmp_path: Path, cells: dict[str, object], said: str
) -> None:
    rows = [{"file_name": "a.png", "text": "a square"}, {"file_name": "b.png", "text": "b"} | cells]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = Report(limit=0.5)
    assert [r.texts for r in read(tmp_path, split="all", report=report)] == [("a square",)]
    assert [broken.reason for broken in report.broken] == [said]


def test_imagefolder_numbers_are_names_and_texts(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"file_name": [1, 2], "question": ["how many?"] * 2, "answer": [3.0, 2.5]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "metadata.parquet")
    assert [(r.id, r.texts) for r in read(tmp_path, split="all")] == [
        ("1", ("3",)),
        ("2", ("2.5",)),
    ]
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"metadata.parquet is no whole parquet file"):
        list(read(tmp_path, split="all"))


def test_kohya_text_file_that_is_no_utf8_costs_its_image_alone(tmp_path: Path) -> None:
    for name, text in (("a", b"a square"), ("b", b"caf\xe9"), ("c", "\ufeff".encode())):
        shutil.copy(FIXTURES / "kohya" / "5_square" / "0.png", tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text)
    report = Report(limit=0.9)
    assert [record.id for record in read(tmp_path, split="all", report=report)] == ["a.png"]
    assert [broken.reason for broken in report.broken] == [
        "the caption has characters that are not UTF-8",
        "c.txt is empty",
    ]


def test_kohya_reads_what_the_command_line_reads_and_counts_the_others(tmp_path):
    picture = (FIXTURES / "kohya" / "5_square" / "0.png").read_bytes()
    for name in ("in/a.jfif", "in/b.v2.png", "in/forest.png/c.avif", "out/d.png", "in/.e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture)
        (tmp_path / name).with_suffix(".txt").write_text("a square")
    for name in ("alone.txt", "f.psd"):
        (tmp_path / "in" / name).write_text("?")
    (tmp_path / "in" / "linked").symlink_to("../out")
    (tmp_path / "in" / "linked" / "up").symlink_to("../in")
    report = Report()
    records = list(read(tmp_path / "in", split="all", report=report))
    names = ["a.jfif", "b.v2.png", "forest.png/c.avif", "linked/d.png"]
    assert [record.id for record in records] == names
    assert report.unused == {
        "files of other kinds (.psd, .txt)": 2,
        "files hidden": 2,
        "files linked again": 1,
    }
    assert "not used: files linked again (1)" in report.summary()


def test_imagefolder_counts_images_without_a_row(tmp_path):
    shutil.copytree(FIXTURES / "imagefolder_csv", tmp_path, dirs_exist_ok=True)
    shutil.copy(FIXTURES / "kohya" / "5_square" / "0.png", tmp_path / "new.png")
    report = Report()
    assert len(list(read(tmp_path, split="all", report=report))) == 10
    assert report.unused["files without a row in the table"] == 1
