from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.data.detect import detect_format
from training.data.readers import READERS, read
from training.data.records import DataError, Record
from training.data.report import Report

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("coco", "coco"),
        ("coco/annotations/captions_val2014.json", "coco"),
        ("karpathy", "karpathy"),
        ("karpathy/dataset_coco.json", "karpathy"),
        ("flickr8k", "flickr8k"),
        ("flickr8k/Flickr8k.token.txt", "flickr8k"),
        ("kaggle", "kaggle"),
        ("kaggle/captions.txt", "kaggle"),
        ("flickr30k", "flickr30k"),
        ("textcaps", "textcaps"),
        ("textcaps/TextCaps_0.1_train.json", "textcaps"),
        ("vqa_v2", "vqa_v2"),
        ("vqa_v2/v2_OpenEnded_mscoco_val2014_questions.json", "vqa_v2"),
        ("daquar", "daquar"),
        ("gqa", "gqa"),
        ("gqa/train_balanced_questions.json", "gqa"),
        ("vizwiz", "vizwiz"),
        ("vizwiz/Annotations/train.json", "vizwiz"),
        ("vizwiz_captions", "vizwiz_captions"),
        ("vizwiz_captions/annotations/train.json", "vizwiz_captions"),
        ("easy_vqa", "easy_vqa"),
        ("blip/coco_karpathy_train.json", "blip"),
        ("blip/vqa_train.json", "blip"),
        ("llava/train.json", "llava"),
        ("cocoqa", "cocoqa"),
        ("okvqa", "okvqa"),
        ("okvqa/train.json", "okvqa"),
        ("aokvqa", "aokvqa"),
        ("aokvqa/aokvqa_v1p0_test.json", "aokvqa"),
        ("vsr", "vsr"),
        ("vsr/train.jsonl", "vsr"),
        ("hl", "hl"),
        ("hl/train.jsonl", "hl"),
        ("imagefolder", "imagefolder"),
        ("imagefolder_csv", "imagefolder"),
        ("kohya", "kohya"),
    ],
)
def test_format_is_detected(path, format):
    assert detect_format(FIXTURES / path) == format


def test_json_is_recognised_by_its_keys_whatever_its_name(tmp_path):
    for path, format in (
        ("coco/annotations/captions_val2014.json", "coco"),
        ("karpathy/dataset_coco.json", "karpathy"),
        ("textcaps/TextCaps_0.1_train.json", "textcaps"),
        ("vqa_v2/v2_OpenEnded_mscoco_val2014_questions.json", "vqa_v2"),
        ("gqa/train_balanced_questions.json", "gqa"),
        ("vizwiz/Annotations/train.json", "vizwiz"),
    ):
        file = tmp_path / "data.json"
        file.write_bytes((FIXTURES / path).read_bytes())
        assert detect_format(file) == format


def test_every_fixture_folder_has_a_reader_that_yields_records():
    options = {
        "coco": {"split": "val"},
        "blip": {"path": FIXTURES / "blip" / "vqa_train.json"},
        "llava": {"path": FIXTURES / "llava" / "train.json", "split": "all"},
        "flickr30k": {"split": "all"},
    }
    folders = sorted(folder.name for folder in FIXTURES.iterdir())
    for name in folders:
        arguments = {"path": FIXTURES / name, "split": "train", **options.get(name, {})}
        records = list(read(**arguments))
        assert records, name
        assert all(isinstance(record, Record) and record.image.read() for record in records)
    made_in_tests = {"webdataset", "datasets"}
    assert set(READERS) - made_in_tests <= set(folders)


def test_unknown_format_names_the_known_ones():
    with pytest.raises(DataError, match="no format 'cocoo'; the formats are coco, karpathy"):
        read(FIXTURES, "cocoo")


def test_unrecognised_and_missing_folders_are_errors(tmp_path):
    with pytest.raises(DataError, match="is not recognised; name the format"):
        read(tmp_path)
    with pytest.raises(
        DataError, match=r"not recognised; name the file to read: .*_train.json \(blip"
    ):
        read(FIXTURES / "blip")
    with pytest.raises(DataError, match="There is no file or folder aaa"):
        read("a" * 5000)
    for format in (None, "coco"):
        with pytest.raises(DataError, match="There is no file or folder"):
            list(read(tmp_path / "missing", format))
    for format in set(READERS) - {"datasets"}:
        with pytest.raises(DataError):
            list(read(tmp_path, format))


def test_missing_image_folder_says_how_to_name_it(tmp_path):
    for file in (FIXTURES / "flickr8k").glob("*.txt"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"has no image folder .*; name it with images="):
        list(read(tmp_path))
    with pytest.raises(DataError, match=r"image folder .*nowhere does not exist"):
        list(read(tmp_path, images=tmp_path / "nowhere"))
    images = FIXTURES / "flickr8k" / "images"
    assert next(read(tmp_path, images=images)).image.read()


def test_unknown_option_names_those_that_exist():
    with pytest.raises(DataError, match="karpathy has no option 'column'; it takes restval"):
        read(FIXTURES / "karpathy", column="x")
    with pytest.raises(DataError, match="flickr8k has no option 'restval'; it takes none"):
        read(FIXTURES / "flickr8k", restval=True)


@pytest.mark.parametrize(
    ("content", "format"),
    [
        ({"questions": [{"question_id": 1}]}, "vqa_v2"),
        ({"annotations": []}, "coco"),
        ({"images": [{"id": 1}], "annotations": []}, "coco"),
        ({"images": [None], "dataset": "coco"}, "karpathy"),
        ({"data": 3}, "textcaps"),
        ([{"image": None, "caption": "a dog"}], "blip"),
        ([None], "llava"),
        ([1, 2], "gqa"),
    ],
)
def test_a_file_of_another_shape_is_one_sentence(tmp_path: Path, content: Any, format: str) -> None:
    names = {
        "vqa_v2": "OpenEnded_mscoco_train2014_questions.json",
        "coco": "captions_train2014.json",
    }
    names |= {"gqa": "train_balanced_questions.json", "textcaps": "TextCaps_0.1_train.json"}
    (tmp_path / "images").mkdir()
    file = tmp_path / names.get(format, "dataset_x.json")
    file.write_text(json.dumps(content))
    path = tmp_path if format in names else file
    with pytest.raises(DataError, match=r"shape|broken|missing|hold"):
        list(read(path, format, "train", report=Report(0.0)))


def test_files_that_a_system_leaves_beside_images_are_no_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a square")
        (tmp_path / f"._{name}.png").write_bytes(b"Mac OS X")
    (tmp_path / "folder.png").mkdir()
    assert [record.id for record in read(tmp_path, "kohya", "all")] == ["a.png", "b.png"]
