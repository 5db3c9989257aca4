"""Questions about photos of COCO: COCO-QA, OK-VQA, A-OKVQA, Visual Spatial Reasoning, High-Level."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from training.data.coco_images import find_coco_images
from training.data.readers import read
from training.data.readers_coco import statement_question
from training.data.records import DataError
from training.data.report import Report

FIXTURES = Path(__file__).parent / "fixtures"


def test_cocoqa_joins_its_four_files_line_by_line() -> None:
    color, number = read(FIXTURES / "cocoqa", split="train")
    assert (color.question, color.texts) == ("what is the color of the square", ("red",))
    assert (color.kind, number.kind) == ("color", "number")
    assert color.image.path.endswith("COCO_train2014_000000000009.jpg")
    (test,) = read(FIXTURES / "cocoqa" / "test", "cocoqa", "test")
    assert (test.kind, test.texts) == ("object", ("square",))
    assert test.image.path.endswith("COCO_val2014_000000000073.jpg")


def test_cocoqa_files_of_unequal_length_are_refused_with_their_lengths(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "cocoqa", tmp_path / "cocoqa")
    (tmp_path / "cocoqa" / "train" / "answers.txt").write_text("red\n")
    with pytest.raises(DataError, match=r"questions.txt 2, answers.txt 1, img_ids.txt 2"):
        list(read(tmp_path / "cocoqa"))


def test_okvqa_gives_an_answer_as_often_as_its_score_asks() -> None:
    first, second = read(FIXTURES / "okvqa", split="train")
    assert first.texts == ("warning",) * 4 + ("stop",) * 2 + ("parking",) * 2
    assert second.texts == ("malevich",) * 4 + ("albers",)
    assert (first.kind, second.kind) == ("vehicles and transportation", "other")
    assert first.image.path.endswith("train2014/COCO_train2014_000000000009.jpg")
    assert second.image.path.endswith("val2014/COCO_val2014_000000000073.jpg")
    assert (first.id, second.id) == ("95", "735")


def test_the_official_files_of_okvqa_are_those_of_vqa(tmp_path: Path) -> None:
    for name in ("OpenEnded_mscoco_train2014_questions.json", "mscoco_train2014_annotations.json"):
        text = (FIXTURES / "vqa_v2" / f"v2_{name}").read_text()
        text = re.sub(r'"question_type": "[^"]*"', '"question_type": "eight"', text)
        (tmp_path / name).write_text(text)
    images = FIXTURES / "vqa_v2" / "images"
    records = list(read(tmp_path, "okvqa", "train", images))
    assert {(r.source, r.kind, len(r.texts)) for r in records} == {
        ("okvqa", "plants and animals", 10)
    }
    assert [r.texts for r in records] == [r.texts for r in read(tmp_path, None, "train", images)]


def test_aokvqa_has_ten_answers_and_none_for_test() -> None:
    (record,) = read(FIXTURES / "aokvqa", split="train")
    assert record.texts == ("table",) * 8 + ("grey table", "desk")
    assert record.id == "22jbM6gDxdaMaunuzgrsBB"
    (test,) = read(FIXTURES / "aokvqa", split="test")
    assert test.texts == ()


def test_vsr_statements_become_questions_to_answer_with_yes_or_no() -> None:
    true, false = read(FIXTURES / "vsr", split="train")
    assert (true.question, true.texts) == ("Is the square on top of the table?", ("yes",))
    assert (false.question, false.texts) == ("Does the table contain the square?", ("no",))
    assert true.kind == "on top of"
    (dev,) = read(FIXTURES / "vsr", split="val")
    assert dev.texts == ("no",)


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("The dogs are in the car.", "Are the dogs in the car?"),
        ("The cake consists of the apple.", "Does the cake consist of the apple?"),
        ("The cat has as a part the tail. ", "Does the cat have as a part the tail?"),
        ("The tv is at the left side of the cat", "Is the tv at the left side of the cat?"),
        ("A cat touches the dog.", "Is it true that a cat touches the dog?"),
    ],
)
def test_a_statement_is_asked_in_plain_english(statement: str, question: str) -> None:
    assert statement_question(statement) == question


def test_hl_asks_what_its_annotators_were_asked() -> None:
    scene, action, rationale = read(FIXTURES / "hl", split="train")
    assert scene.question == "Where is the picture taken?"
    assert scene.texts == ("on a table", "in a studio.", "at a desk")
    assert [record.kind for record in (scene, action, rationale)] == [
        "scene",
        "action",
        "rationale",
    ]
    assert len({record.id for record in (scene, action, rationale)}) == 3
    only = list(read(FIXTURES / "hl", split="train", axes=["scene", "action"]))
    assert only == [scene, action]
    with pytest.raises(DataError, match="no axis 'objects'; the axes are scene, action, rationale"):
        list(read(FIXTURES / "hl", split="train", axes="objects"))


@pytest.mark.parametrize(
    "name",
    [
        "COCO_val2014_000000000042.jpg",
        "000000000042.webp",
        "val2017/000000000042.JPG",
        "train2014/COCO_train2014_000000000042.jpg",
        "42.png",
    ],
)
def test_a_photo_of_coco_is_found_by_its_id_whatever_its_name(tmp_path: Path, name: str) -> None:
    photo = tmp_path / "images" / name
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"")
    texts = tmp_path / "annotations" / "cocoqa" / "train" / "questions.txt"
    texts.parent.mkdir(parents=True)
    for images in (None, tmp_path / "images"):
        photos = find_coco_images(texts, images)
        assert photos.ref(42, "000000000042.jpg").path == str(photo)
        assert photos.ref(7, "000000000007.jpg").path.endswith("images/000000000007.jpg")


def test_no_folder_of_photos_says_how_to_name_it(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "vsr", tmp_path / "deep" / "down" / "below" / "vsr")
    shutil.rmtree(tmp_path / "deep" / "down" / "below" / "vsr" / "images")
    with pytest.raises(DataError, match=r"has no image folder .*; name it with images="):
        list(read(tmp_path / "deep" / "down" / "below" / "vsr"))


# Counts of records and of photos, by folder under the data and format.
REAL = [
    ("coco", "coco", (3467, 207), (3467, 207)),
    ("pascal_sentences", None, (956, 43), (956, 43)),
    ("coco", "vqa_v2", (819, 70), (607, 48)),
    ("coco/annotations/single_answer", None, (1365, 77), (1016, 61)),
    ("coco", "cocoqa", (7357, 568), (4296, 334)),
    ("coco", "okvqa", (1305, 88), (1304, 88)),
    ("coco/annotations/okvqa", None, (1305, 88), (1304, 88)),
    ("coco", "aokvqa", (47, 4), (46, 4)),
    ("coco", "vsr", (622, 31), (342, 16)),
    ("coco", "hl", (768, 69), (256, 23)),
]


@pytest.mark.parametrize(("folder", "format", "records", "photos"), REAL)
def test_real_data_have_their_counts_and_disjoint_photos(
    data_dir: Path,
    folder: str,
    format: str | None,
    records: tuple[int, int],
    photos: tuple[int, int],
) -> None:
    report = Report(limit=0)
    splits = [
        list(read(data_dir / folder, format, name, report=report)) for name in ("train", "val")
    ]
    train, val = ({record.image.key for record in split} for split in splits)
    assert tuple(map(len, splits)) == records
    assert (len(train), len(val)) == photos
    assert not train & val
    assert all(Path(key).is_file() for key in train | val)
    assert all(len({record.id for record in split}) == len(split) for split in splits)


def test_okvqa_is_not_taken_for_the_questions_of_vqa_v2_beside_it(data_dir: Path) -> None:
    beside = read(data_dir / "coco" / "annotations", "okvqa", "val")
    assert list(beside) == list(read(data_dir / "coco" / "annotations" / "okvqa", split="val"))


def test_a_folder_of_several_datasets_names_them(data_dir: Path) -> None:
    with pytest.raises(DataError, match=r"several datasets, .*cocoqa \(annotations/cocoqa.*; name"):
        read(data_dir / "coco")
