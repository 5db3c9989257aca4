"""Facts that are true of nothing: a question has its answer in the passages, in the photo, in both or in neither."""

from __future__ import annotations

import random
import re

import pytest

from training.data.invented_facts import (
    CATEGORIES,
    KINDS,
    NOT_THERE,
    RELATIONS,
    Sheet,
    rival,
    sheet,
    things_of,
    value_of,
)
from training.data.records import ImageRef, Record

IMAGE = ImageRef("photo.jpg")
CAPTIONS = Record(IMAGE, ("a brown dog runs by a red car", "a dog near the car"))
ASKED = Record(IMAGE, ("brown", "brown", "black"), "what color is the dog?")


def sheets(count: int = 300, **options: object) -> list[Sheet]:
    generator = random.Random(0)
    return [sheet([CAPTIONS, ASKED], generator, **options) for _ in range(count)]


def words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_things_are_those_that_captions_name():
    things = things_of([CAPTIONS, ASKED])
    assert things == {"animal": {"dog"}, "vehicle": {"car"}, "person": set(), "thing": set()}


def test_every_kind_of_question_is_asked():
    assert {asked.kind for one in sheets() for asked in one.asked} == set(KINDS)


def test_what_is_asked_has_the_answer_that_it_needs():
    for one in sheets():
        for asked in one.asked:
            texts = [words(passage) for passage in one.passages]
            if asked.kind in ("passage", "both"):
                assert asked.fact is not None
                thing, _, value = asked.fact
                assert asked.passage is not None
                assert words(value) in texts[asked.passage]
                assert thing in texts[asked.passage]
                assert asked.answer == value
            if asked.kind == "both":
                assert asked.fact is not None
                assert asked.fact[0] in ("dog", "car")
                assert not re.search(r"\b(dog|car)\b", asked.question)
            if asked.kind == "image":
                assert (asked.question, asked.answer) == (ASKED.question, "brown")
            if asked.kind == "contradiction":
                seen, _, told = asked.answer.partition(", but the documents say ")
                assert seen in ("dog", "car")
                assert any(f"a {told}" in text for text in texts)
            if asked.kind == "neither":
                assert asked.answer == NOT_THERE
            if asked.kind == "caption":
                assert asked.question is None
                assert asked.answer in CAPTIONS.texts


def test_passages_are_not_more_than_wanted_and_no_question_is_asked_twice():
    for one in sheets(passages=3, questions=4):
        assert 1 <= len(one.passages) <= 4  # a claim may come on top
        assert len(one.asked) <= 4
        assert len({asked.question for asked in one.asked}) == len(one.asked)


@pytest.mark.parametrize("relation", sorted(RELATIONS))
def test_what_is_held_out_is_never_learnt(relation):
    generator = random.Random(0)
    learnt = {value_of(relation, generator, held_out=False) for _ in range(300)}
    held_out = {value_of(relation, generator, held_out=True) for _ in range(300)}
    assert not learnt & held_out
    assert len(held_out) > 20


def test_a_rival_says_the_same_of_something_else_of_the_category():
    text, value = rival(("dog", "name", "Rex"), random.Random(0), True, {"cat"})
    assert value in text
    (named,) = {name for name in CATEGORIES["animal"] if re.search(rf"\b{name}\b", text)}
    assert named not in ("dog", "cat")


def test_an_image_without_captions_is_asked_about_passages_and_itself():
    one = sheet([ASKED], random.Random(1))
    assert one.passages
    assert {asked.kind for asked in one.asked} <= {"passage", "image", "neither"}


def test_a_second_fact_about_the_same_thing_is_said_of_it():
    """Of people it is not: whether "he" or "she" is meant, is not known."""
    said = [passage for one in sheets() for passage in one.passages]
    again = [passage for passage in said if re.search(r"\. (It|Its) ", passage)]
    assert len(again) > 20
    assert not any(re.match(r"[^.]*\bThe (man|woman|boy)\b[^.]*\. Its? ", p) for p in again)
