"""Records to rows and rows to batches: what is learnt, what is only given, and what is padding."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.data.records import ImageRef, Record
from training.loop.examples import Example, collate, examples
from training.recipe.recipe import Source
from training.recipe.sources import Group
from vlm.model.model import IGNORE_INDEX
from vlm.prompts import caption_prompt, clean_text, question_prompt

if TYPE_CHECKING:
    from vlm.captioner import Captioner

IMAGE = ImageRef("a.png")
PAD = 0


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A dog runs .", "A dog runs"),
        ("two  men , in\ta park.", "two men, in a park"),
        ("is it red ?", "is it red?"),
        ("night_stand", "night stand"),
        ("...", ""),
    ],
)
def test_texts_are_cleaned(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned
    assert clean_text(cleaned) == cleaned


def test_a_caption_and_a_question_become_rows(tiny: Captioner) -> None:
    tokenizer = tiny.tokenizer
    caption = Record(IMAGE, ("a brown dog", "a black cat"), weight=2.0)
    question = Record(IMAGE, ("yes", "no", "yes"), "is there a dog?")
    rows = examples(Group(IMAGE, (caption, question), Source("x")), tokenizer)
    assert [row.weight for row in rows] == [2.0, 2.0, 1.0]
    assert rows[0].prompt == caption_prompt(tokenizer).ids
    assert rows[2].prompt == question_prompt(tokenizer, "is there a dog?").ids
    assert [tokenizer.decode(row.text[:-1]) for row in rows] == [
        "a brown dog",
        "a black cat",
        "yes",
    ]
    assert all(row.text[-1] == tokenizer.end for row in rows)


def test_answers_are_drawn_as_often_as_people_gave_them(tiny: Captioner) -> None:
    group = Group(IMAGE, (Record(IMAGE, ("yes", "no", "yes", "yes"), "is it?"),), Source("x"))
    drawn = Counter(
        tiny.tokenizer.decode(row.text)
        for seed in range(400)
        for row in examples(group, tiny.tokenizer, random.Random(seed))
    )
    assert set(drawn) == {"yes", "no"}
    assert 0.65 < drawn["yes"] / 400 < 0.85


lengths = st.lists(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), max_size=4), min_size=1, max_size=5
).filter(any)


@given(lengths)
def test_every_token_to_learn_is_a_target_once_and_nothing_else_is(
    images: list[list[tuple[int, int]]],
) -> None:
    number = iter(range(1, 10_000))  # ids that occur once, so that each can be found again
    rows = [
        [
            Example(tuple(next(number) for _ in range(p)), tuple(next(number) for _ in range(t)))
            for p, t in image
        ]
        for image in images
    ]
    image_of = {row.prompt[0]: i for i, image in enumerate(rows) for row in image}
    before = {
        token: (row.prompt + row.text)[i]
        for image in rows
        for row in image
        for i, token in enumerate((row.prompt + row.text)[1:])
    }
    learnt = []
    for chunk in collate(rows, PAD, max_length=100):
        assert chunk.ids.shape == chunk.targets.shape
        assert [image_of[first] for first in chunk.ids[:, 0].tolist()] == chunk.image.tolist()
        kept = chunk.targets != IGNORE_INDEX
        for given_token, token in zip(chunk.ids[kept].tolist(), chunk.targets[kept].tolist()):
            assert before[token] == given_token
            learnt.append(token)
    assert sorted(learnt) == sorted(token for image in rows for row in image for token in row.text)


def test_a_long_row_is_cut_and_its_end_is_not_learnt() -> None:
    [chunk] = collate([[Example((1, 2), (3, 4, 5, 6))]], PAD, max_length=3)
    assert chunk.ids.tolist() == [[1, 2, 3]]
    assert chunk.targets.tolist() == [[IGNORE_INDEX, 3, 4]]


def test_without_rows_there_is_one_of_nothing_to_learn() -> None:
    [chunk] = collate([[], []], PAD, max_length=8)
    assert chunk.ids.shape == (1, 1)
    assert torch.equal(chunk.targets, torch.full((1, 1), IGNORE_INDEX))
