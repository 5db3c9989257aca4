from __future__ import annotations

from pathlib import Path

import pytest

from training.data.readers import read
from training.data.records import Box, DataError

FIXTURES = Path(__file__).parent / "fixtures"


def images_of(path, split, **options):
    return {record.image.key for record in read(path, split=split, **options)}


def test_vqa_v2_has_ten_answers_in_order_with_their_type():
    records = list(read(FIXTURES / "vqa_v2", split="train"))
    assert [record.id for record in records] == ["9000", "9001", "25000"]
    assert records[0].question == "What colour is the square?"
    assert records[0].texts == ("red",) * 8 + ("dark red", "crimson")
    assert [record.kind for record in records] == ["other", "number", "yes/no"]
    assert records[0].image.path.endswith("images/COCO_train2014_000000000009.jpg")
    assert records[0].image.read()


def test_vqa_v2_questions_without_public_annotations_have_no_texts():
    (record,) = read(FIXTURES / "vqa_v2", split="test-dev")
    assert record.texts == ()
    assert record.id == "1000"
    assert record.image.read()  # test-dev asks about the images of test


def test_vqa_v2_takes_explicit_files():
    folder = FIXTURES / "vqa_v2"
    (record,) = read(
        folder,
        "vqa_v2",
        questions=folder / "v2_OpenEnded_mscoco_val2014_questions.json",
        annotations=folder / "v2_mscoco_val2014_annotations.json",
    )
    assert record.texts == ("no",) * 10


def test_vqa_v2_train_without_annotations_is_an_error(tmp_path):
    name = "v2_OpenEnded_mscoco_train2014_questions.json"
    (tmp_path / name).write_bytes((FIXTURES / "vqa_v2" / name).read_bytes())
    with pytest.raises(DataError, match=r"v2_mscoco_train2014_annotations.json is missing"):
        list(read(tmp_path, split="train"))


def test_daquar_pairs_questions_with_answers_and_drops_the_file_pointer():
    records = {record.id: record for record in read(FIXTURES / "daquar", split="trainval")}
    assert len(records) == 10
    assert records["0"].question == "what is on the left of the grey table?"
    assert records["10"].question == (
        "what is the colour of the object in the right side of the image?"
    )
    assert records["2"].texts == ("knife, fork",)  # a set stays one text
    assert records["1"].texts == ("cup_holder",)
    assert records["2"].image.read()
    (first, second) = read(FIXTURES / "daquar", split="test")
    assert first.image == second.image
    assert second.question == "how many squares are on the table?"


def test_daquar_dev_is_every_eighth_train_image():
    assert {Path(key).stem for key in images_of(FIXTURES / "daquar", "dev")} == {"image8"}
    train = {Path(key).stem for key in images_of(FIXTURES / "daquar", "train")}
    assert train == {f"image{i}" for i in range(1, 10)} - {"image8"}


def test_easy_vqa_dev_is_every_tenth_train_image():
    folder = FIXTURES / "easy_vqa"
    dev = list(read(folder, split="dev"))
    assert {Path(record.image.path).name for record in dev} == {"9.png"}
    assert [record.id for record in dev] == ["18", "19"]
    train = list(read(folder, split="train"))
    assert len(train) == 18
    assert train[0].question == "what color is the shape?"
    assert train[0].texts == ("red",)
    assert len(list(read(folder, split="trainval"))) == 20
    assert images_of(folder, "train").isdisjoint(images_of(folder, "test"))
    assert train[0].image.read()


def test_easy_vqa_package_has_its_counts():
    counts = {split: len(list(read("easy_vqa", split=split))) for split in ("trainval", "test")}
    assert counts == {"trainval": 38575, "test": 9673}
    assert len(images_of("easy_vqa", "train")) == 3600
    assert len(images_of("easy_vqa", "dev")) == 400


def test_daquar_real_data_has_the_published_counts(data_dir):
    folder = data_dir / "daquar"
    counts = {split: len(list(read(folder, split=split))) for split in ("trainval", "test")}
    assert counts == {"trainval": 6795, "test": 5673}
    train, dev, test = (images_of(folder, split) for split in ("train", "dev", "test"))
    assert len(dev) == 99
    assert len(train | dev | test) == len(train) + len(dev) + len(test)
    assert all(Path(key).is_file() for key in train | dev | test)
    assert not any("image1" in record.question for record in read(folder, split="train"))


def test_vqa_v2_real_data_has_its_counts_and_disjoint_images(data_dir):
    folder = data_dir / "vqa_v2"
    train, val = (list(read(folder, split=split)) for split in ("train", "val"))
    assert (len(train), len(val)) == (2541, 443)
    assert all(len(record.texts) == 10 for record in train + val)
    assert images_of(folder, "train").isdisjoint(images_of(folder, "val"))
    assert all(Path(record.image.path).is_file() for record in train + val)


def test_gqa_gives_types_and_boxes_of_the_named_objects():
    folder = FIXTURES / "gqa"
    graphs = folder / "train_sceneGraphs.json"
    records = list(read(folder, split="train", scene_graphs=graphs))
    assert [record.id for record in records] == ["05515938", "05515937"]
    assert [record.kind for record in records] == ["query", "verify"]
    assert records[0].texts == ("green",)
    assert records[0].boxes == (Box("square", 6, 4, 18, 14), Box("table", 0, 0, 24, 18))
    assert records[1].boxes == ()
    assert records[0].image.read()
    assert all(record.boxes == () for record in read(folder, split="train"))
    (test,) = read(folder, split="test")
    assert test.texts == ()


def test_gqa_without_the_unbalanced_file_names_what_is_missing():
    with pytest.raises(DataError, match="no split 'train'"):
        list(read(FIXTURES / "gqa", split="train", balanced=False))
