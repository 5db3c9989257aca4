from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from training.data.readers import read
from training.data.records import DataError
from training.data.report import Report

FIXTURES = Path(__file__).parent / "fixtures"
PICTURES = [str(FIXTURES / "kohya" / "5_square" / f"{i}.png") for i in range(2)]


@pytest.fixture(autouse=True)
def cache_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def table():
    columns = {"picture": PICTURES, "says": [["a red square", "red"], ["a green square"]]}
    return datasets.Dataset.from_dict(columns).cast_column("picture", datasets.Image())


def test_saved_dataset_gives_the_stored_bytes(tmp_path):
    folder = tmp_path / "saved"
    datasets.DatasetDict({"train": table(), "validation": table().select([0])}).save_to_disk(folder)
    columns = {"image": "picture", "text": "says"}
    records = list(read(folder, split="train", columns=columns))
    assert [record.texts for record in records] == [("a red square", "red"), ("a green square",)]
    assert records[0].image.read() == Path(PICTURES[0]).read_bytes()
    assert records[0].image.key != records[1].image.key
    assert len(list(read(folder, split="dev", columns=columns))) == 1
    with pytest.raises(DataError, match="no split 'test'; it has train, validation"):
        list(read(folder, split="test", columns=columns))


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_files_of_a_hub_repository(tmp_path, streaming):
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    question = {
        "image": PICTURES,
        "question": ["What colour is it?"] * 2,
        "answers": [[{"answer": "red"}, {"answer": "dark red"}], [{"answer": "green"}]],
        "question_id": [7, 8],
    }
    stored = datasets.Dataset.from_dict(question).cast_column("image", datasets.Image())
    stored.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    records = list(read(folder, "datasets", "train", streaming=streaming))
    assert records[0].question == "What colour is it?"
    assert records[0].texts == ("red", "dark red")
    assert [record.id for record in records] == ["7", "8"]
    assert records[1].image.read() == Path(PICTURES[1]).read_bytes()


def test_a_name_that_cannot_be_loaded_is_one_error():
    with pytest.raises(DataError, match="The dataset nobody/nothing cannot be loaded"):
        list(read("nobody/nothing", "datasets"))


def test_what_a_folder_lacks_is_told_in_words_of_the_data(tmp_path):
    for name, file, text, said in (
        (
            "rows",
            "train.csv",
            "file_name,text\na.png,b\nc.png,d,e\n",
            "Expected 2 fields in line 3",
        ),
        ("saved", "dataset_dict.json", "{}", "its description is damaged"),
        ("packed", "train.parquet", "PAR1", "[Pp]arquet"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
        with pytest.raises(DataError, match=rf"{name} cannot be loaded: .*{said}"):
            list(read(tmp_path / name, "datasets"))


def test_missing_cells_cost_their_row_and_a_missing_id_nothing(tmp_path):
    columns = {
        "image": ["a.png", None, "c.png", "d.png"],
        "text": ["a", "b", None, "d"],
        "id": [1.0, 2.0, 3.0, float("nan")],
    }
    folder = tmp_path / "data"
    folder.mkdir()
    datasets.Dataset.from_dict(columns).to_parquet(folder / "train.parquet")
    report = Report(limit=0.5)
    records = list(read(folder, "datasets", report=report))
    assert [(record.texts, record.id) for record in records] == [(("a",), "1"), (("d",), "3")]
    assert [broken.reason for broken in report.broken] == [
        "its 'image' is null, not the name of a file",
        "the caption is missing",
    ]
    for columns in ("text", {"text": 3}, {"text": None}):
        with pytest.raises(
            DataError, match="columns must map image, text, question or id to names"
        ):
            list(read(folder, "datasets", columns=columns))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["photos [2]", "a::b", "*?"])
def test_a_folder_with_signs_of_globs_and_chains_in_its_name(name, streaming, tmp_path):
    columns = {"image": "picture", "text": "says"}
    repository, saved = tmp_path / name / "repository", tmp_path / name / "saved"
    table().to_parquet(tmp_path / "train.parquet")
    repository.mkdir(parents=True)
    (tmp_path / "train.parquet").rename(repository / "train.parquet")
    (tmp_path / "plain").symlink_to(repository)
    table().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved").rename(saved)
    for folder in (repository, saved, tmp_path / "plain"):
        split = "all" if folder == saved else "train"
        records = list(read(folder, "datasets", split, columns=columns, streaming=streaming))
        assert [record.image.read() for record in records] == [
            Path(picture).read_bytes() for picture in PICTURES
        ]
    (tmp_path / name / "empty").mkdir()
    with pytest.raises(DataError, match="empty cannot be loaded") as raised:
        list(read(tmp_path / name / "empty", "datasets"))
    assert "links" not in str(raised.value)
