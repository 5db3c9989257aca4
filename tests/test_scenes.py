"""Composed scenes: what is said of them is what they show."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.readers import read
from training.data.records import DataError
from training.data.scenes import draw_scene, read_stamps, write_scenes

COLOURS = {"a red ball": (255, 0, 0), "a cup of tea": (0, 255, 0), "some grapes": (0, 0, 255)}


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Three plain stamps with margins, a letter, and one whose text is a saying."""
    for number, (phrase, colour) in enumerate(COLOURS.items()):
        _stamp(tmp_path / "things" / f"{number}.png", phrase.capitalize() + ". And more!", colour)
    _stamp(tmp_path / "symbols" / "a.png", "A letter.", (9, 9, 9))
    _stamp(tmp_path / "things" / "saying.png", "Remember to wash your hands!", (9, 9, 9))
    (tmp_path / "things" / "alone.txt").write_text("A thing without a picture.")
    return tmp_path


def _stamp(file: Path, text: str, colour: tuple[int, int, int]) -> None:
    file.parent.mkdir(exist_ok=True)
    picture = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    picture.paste((*colour, 255), (10, 10, 50, 30))
    picture.save(file)
    file.with_suffix(".txt").write_text(text + "\nweiterer Text")


def test_stamps_are_things_with_a_name(stamps: Path) -> None:
    found = read_stamps(stamps)
    assert [stamp.phrase for stamp in found] == list(COLOURS)
    assert [stamp.name for stamp in found] == ["red ball", "cup of tea", "grapes"]
    assert [stamp.countable for stamp in found] == [True, False, False]


def test_a_folder_without_stamps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no stamps"):
        read_stamps(tmp_path)


def test_boxes_hold_their_things_and_answers_are_true(stamps: Path) -> None:
    found = read_stamps(stamps)
    counted = told = 0
    for number in range(200):
        scene = draw_scene(found, random.Random(number))
        pixels = np.asarray(scene.image).astype(int)
        names = [phrase for phrase, _ in scene.boxes]
        for phrase, (left, top, right, bottom) in scene.boxes:
            inside = pixels[top:bottom, left:right] - COLOURS[phrase]
            assert np.abs(inside).mean() < 2, phrase
        for phrase, colour in COLOURS.items():  # and nothing lies outside
            area = (np.abs(pixels - colour).max(axis=2) < 3).sum()
            boxes = [b for p, b in scene.boxes if p == phrase]
            assert area == pytest.approx(sum((r - x) * (b - y) for x, y, r, b in boxes), rel=0.05)
        for question, answer in scene.questions:
            if question.startswith("how many red balls"):
                assert answer == str(names.count("a red ball"))
                counted += 1
            elif question.startswith("is there"):
                asked = question.removeprefix("is there ").removesuffix(" in the picture?")
                assert answer == ("yes" if asked in names else "no")
            elif question == "what is on the left?":
                assert answer == min(scene.boxes, key=lambda b: b[1][0])[0].split(" ", 1)[1]
                told += 1
        for caption in scene.captions:
            assert any(phrase in caption or "red balls" in caption for phrase in names)
    assert min(counted, told) > 3


def test_what_is_written_is_read_again(stamps: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_scenes(read_stamps(stamps), out, "train", 5, seed=1)
    captions = list(read(out / "captions_train.json", "coco"))
    questions = list(read(out / "questions_train.json", "blip"))
    assert len({record.image.key for record in captions}) == 5
    assert {record.image.key for record in questions} == {record.image.key for record in captions}
    assert all(Path(record.image.path).is_file() for record in captions)
    rows = [line.split("\t") for line in (out / "boxes_train.tsv").read_text().splitlines()]
    assert {row[0] for row in rows} == {f"train_{n:06d}.jpg" for n in range(5)}
    first = {file.name: file.read_bytes() for file in out.glob("*_train.*")}
    write_scenes(read_stamps(stamps), out, "train", 5, seed=1)
    assert first == {file.name: file.read_bytes() for file in out.glob("*_train.*")}
