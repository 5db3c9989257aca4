"""Names that tags tell and captions then use: what is renamed, and that learning it makes a decoder copy."""

from __future__ import annotations

import random

import pytest

from training.data.records import ImageRef, Record
from training.loop.told_names import told
from training.recipe.everyday_names import everyday_names
from training.recipe.sources import Group, Source

NAMES = everyday_names()[0]


def group(*captions: str) -> Group:
    image = ImageRef("photo.jpg")
    return Group(image, (Record(image, captions),), Source("x"))


@pytest.mark.parametrize(
    ("caption", "before", "after"),
    [
        ("A dog runs on the grass.", "A ", " runs on the grass."),
        ("a man holds an elephant", "a man holds a ", ""),
        ("Two brown horses stand there", "Two brown ", " stand there"),
        ("a man in a red shirt waits for the bus", "a man in a red shirt waits for the ", ""),
    ],
)
def test_one_thing_goes_by_another_name_and_the_rest_stays(caption, before, after):
    for seed in range(20):
        renamed = told(group(caption), random.Random(seed))
        assert renamed is not None
        (text,), number = renamed[0].texts, renamed[1]
        vowel = before.lower().endswith("a ") and NAMES[number][0] in "aeiou"
        start = before[:-1] + "n " if vowel else before
        assert text.startswith(start)
        assert text.endswith(after)
        name = text[len(start) : len(text) - len(after)]
        assert name.startswith(
            NAMES[number][:-1]
        )  # or its plural, which may change the last letter


def test_an_animal_becomes_an_animal_and_a_thing_a_thing():
    animals = {told(group("a dog"), random.Random(seed))[1] for seed in range(300)}
    things = {told(group("a bus"), random.Random(seed))[1] for seed in range(300)}
    assert not animals & things
    assert {NAMES.index("panda"), NAMES.index("squirrel")} & animals
    assert len(things) > 100


@pytest.mark.parametrize("caption", ["a man in a red shirt", "it is snowing", "no dogs here"])
def test_people_clothes_and_what_is_not_there_keep_their_names(caption):
    assert told(group(caption), random.Random(0)) is None
