from __future__ import annotations

import io
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


def captions_of(folder: Path, text: str, name: str = "captions.txt") -> dict[str, tuple[str, ...]]:
    (folder / "Images").mkdir()
    (folder / name).write_text(text)
    return {record.id: record.texts for record in read(folder, split="all")}


@pytest.mark.parametrize("header", ["image_name,comment_number,comment\n", ""])
def test_the_captions_txt_of_flickr30k_has_commas_without_quotes(
    tmp_path: Path, header: str
) -> None:
    rows = '1.jpg,0, Two dogs , one ball .\n1.jpg,1,"A dog, ""Rex"""\n2.jpg,0, A dog .\n'
    assert captions_of(tmp_path, header + rows) == {
        "1.jpg": ("Two dogs , one ball .", 'A dog, "Rex"'),
        "2.jpg": ("A dog .",),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.txt", "image_name| comment_number| comment\n1.jpg| 0| Two dogs , one ball .\n"),
        ("results.csv", "image_name| comment_number| comment\n1.jpg| 0| Two dogs , one ball .\n"),
        ("results_20130124.token", "1.jpg#0\tTwo dogs , one ball .\n"),
        ("captions.txt", '1.jpg,"Two dogs , one ball ."\n'),
        ("captions.txt", "image\tcaption\n1.jpg\tTwo dogs , one ball .\n"),
        ("captions.txt", ',image,caption\n0,1.jpg,"Two dogs , one ball ."\n'),
    ],
)
def test_other_forms_of_the_same_captions(tmp_path: Path, name: str, text: str) -> None:
    assert captions_of(tmp_path, text, name) == {"1.jpg": ("Two dogs , one ball .",)}


def test_a_table_of_other_columns_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the columns name, words, score; those of this format"):
        captions_of(tmp_path, "name,words,score\n1.jpg,a dog,3\n")


def test_a_comma_too_many_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = [f"{i}.jpg,a dog{', running' if i == 7 else ''}" for i in range(30)]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *rows]))
    report = Report(limit=0.05)
    assert len(list(read(tmp_path, split="all", report=report))) == 29
    (broken,) = report.broken
    assert broken.where.endswith("captions.txt, line 9")
    assert broken.reason.startswith("it has a comma too many for the columns image, caption")
