"""Captions in which things have names that only passages tell: what is to be written follows from what was drawn."""

from __future__ import annotations

import random
import re

import pytest

from training.data.invented_facts import Sheet
from training.data.named_captions import captions_by_thing, named_sheet
from training.data.records import ImageRef, Record

IMAGE = ImageRef("photo.jpg")
OWN = Record(IMAGE, ("a brown dog runs by two cats", "the dog plays"))
OTHERS = [
    Record(ImageRef(f"{number}.jpg"), (f"a {size} {thing} stands at {number} o'clock",))
    for number in range(12)
    for size in ("small", "tall")
    for thing in ("dog", "horse", "bus", "man")
]
POOL = captions_by_thing(OTHERS)
NAME = re.compile(r"\b[A-Z][a-z]+\b")


def drawn(count: int = 200, records: tuple[Record, ...] = (OWN,), **options) -> list[Sheet]:
    generator = random.Random(0)
    return [named_sheet(records, POOL, generator, **options) for _ in range(count)]


def names(texts) -> list[str]:
    return [name for text in texts for name in NAME.findall(text)]


def test_a_thing_is_named_once_as_one_and_with_an_article():
    texts = [
        "a dog and a dog",
        "two dogs",
        "dogs",
        "a big red bus by the old man",
        "dog runs",
        "a person",
    ]
    pool = captions_by_thing([Record(IMAGE, (text,)) for text in texts])
    assert pool == {"bus": [texts[3]], "man": [texts[3]]}


def test_what_stands_between_article_and_thing_describes_it():
    assert captions_by_thing([Record(IMAGE, ("a man with black dog",))]).keys() == {"man"}


def test_the_photos_thing_takes_the_name_that_passages_give_it():
    for sheet in drawn(alike=2, others=0):
        (name,) = set(names(sheet.passages))
        assert any(re.match(rf"{name} the (small|tall) dog", text) for text in sheet.passages)
        written = {asked.answer for asked in sheet.asked}
        assert written == {f"{name} the brown dog runs by two cats", f"{name} the dog plays"}
        assert {asked.kind for asked in sheet.asked} == {"named"}


def test_what_most_passages_say_of_something_else_is_not_said():
    for sheet in drawn(alike=1, others=6):
        (name,) = {word for asked in sheet.asked for word in names([asked.answer])}
        assert names(sheet.passages).count(name) == 1


def test_without_a_name_for_the_photos_thing_its_captions_are_as_they_were():
    for sheet in drawn(alike=0):
        assert {asked.answer for asked in sheet.asked} == set(OWN.texts)
        assert {asked.kind for asked in sheet.asked} == {"caption"}


def test_people_go_by_their_name_alone():
    record = Record(IMAGE, ("a young man sits",))
    for sheet in drawn(50, (record,), alike=2, others=2):
        (asked,) = sheet.asked
        assert re.fullmatch(r"[A-Z][a-z]+ sits", asked.answer)


def test_where_a_photo_shows_people_no_others_are_named():
    record = Record(IMAGE, ("a dog near two girls",))
    assert not any(
        re.search(r"\bman\b", text)
        for s in drawn(100, (record,), alike=0, others=3)
        for text in s.passages
        if names([text])
    )


def test_nothing_with_a_name_is_no_sheet():
    assert drawn(1, (Record(IMAGE, ("a red sofa",)),)) == [None]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_passages_are_no_more_than_are_read(most: int):
    assert max(len(sheet.passages) for sheet in drawn(passages=most)) == most


def test_what_is_held_out_is_never_learnt():
    learnt = set(names(text for s in drawn() for text in s.passages))
    held_out = set(names(text for s in drawn(held_out=True) for text in s.passages))
    assert learnt
    assert held_out
    assert not learnt & held_out
