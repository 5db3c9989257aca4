"""Scenes put together from pictures of single things: each thing is where its box says."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.composed import SIDE, find_things, read_composed
from training.data.records import DataError
from training.data.report import Report

STAMPS = Path(__file__).parent / "fixtures" / "composed"


def test_each_thing_of_the_caption_is_in_its_box_and_nothing_else_is_anywhere():
    for record in read_composed(STAMPS, "train", scenes=20):
        (caption,) = record.texts
        assert 3 <= len(record.boxes) <= 5
        labels = [box.label for box in record.boxes]
        assert caption == f"{', '.join(labels[:-1])} and {labels[-1]}"
        scene = np.asarray(Image.open(io.BytesIO(record.image.read()))).astype(int)
        assert scene.shape == (SIDE, SIDE, 3)
        rest = np.abs(scene - scene[-1, -1]).sum(axis=2) > 10
        for box in record.boxes:
            inside = np.s_[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
            assert rest[inside].mean() > 0.9
            assert rest[inside].sum() > 0
            rest[inside] = False
        assert not rest.any()


def test_scenes_are_a_function_of_the_seed_and_no_picture_is_in_two_splits():
    one, again, other = (
        [r.image.key for r in read_composed(STAMPS, "dev", scenes=5, seed=s)] for s in (0, 0, 1)
    )
    assert one == again
    assert not set(one) & set(other)
    files = [{t.file for t in find_things(STAMPS, split)} for split in ("train", "dev", "test")]
    assert sum(map(len, files)) == len(set().union(*files)) == 20


def test_only_everyday_things_are_pointed_at_and_others_are_learnt(tmp_path):
    for file in STAMPS.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name, title in (
        ("xanthia", "A xanthia."),
        ("story", "A long story of a dog and its friends."),
        ("none", ""),
        ("red", "A red dog!\nes=Un perro."),
    ):
        (tmp_path / f"99_{name}.txt").write_text(title)
        Image.new("RGBA", (8, 8), "red").save(tmp_path / f"99_{name}.png")
    names = {split: [t.name for t in find_things(tmp_path, split)] for split in ("train", "dev")}
    assert "a xanthia" in names["train"]
    assert names["train"].count("a dog") == 2  # a red dog is a dog
    assert len(names["train"]) == 12
    assert "an elephant" in names["train"]
    assert not {"a xanthia", "a story"} & set(names["dev"])


def test_what_cannot_make_scenes_is_told(tmp_path):
    with pytest.raises(DataError, match="There is no folder"):
        list(read_composed(tmp_path / "nowhere", "train"))
    with pytest.raises(DataError, match="pictures of 0 things for dev, and a scene takes 5"):
        list(read_composed(tmp_path, "dev"))
    with pytest.raises(DataError, match="no split 'autumn'"):
        list(read_composed(STAMPS, "autumn"))
    for file in STAMPS.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "01_cat.png").write_bytes(b"no picture")
    report = Report(limit=1)
    good = list(read_composed(tmp_path, "dev", scenes=30, report=report))
    assert len(good) + len(report.broken) == 30
    assert report.broken
    assert "scene" in report.broken[0].where
