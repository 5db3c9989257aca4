"""Records to rows and rows to batches: what is learnt, what is only given, and what is padding."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.data.records import ImageRef, Record
from training.evaluation.predict import question_problem
from training.loop.examples import Example, Rows, collate, collate_images, example, examples
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
    rows = examples(Group(IMAGE, (caption, question), Source("x")), tokenizer, 48)
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
        for row in examples(group, tiny.tokenizer, 48, random.Random(seed))
    )
    assert set(drawn) == {"yes", "no"}
    assert 0.65 < drawn["yes"] / 400 < 0.85


lengths = st.lists(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), max_size=4), min_size=1, max_size=5
).filter(any)


@pytest.mark.parametrize("by", [collate, collate_images])
@given(images=lengths)
def test_every_token_to_learn_is_a_target_once_and_nothing_else_is(
    by: Callable[..., tuple[Rows, ...]], images: list[list[tuple[int, int]]]
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
    for chunk in by(rows, PAD):
        assert chunk.ids.shape == chunk.targets.shape
        each = chunk.image.repeat_interleave(len(chunk.ids) // len(chunk.image)).tolist()
        firsts = chunk.ids[:, 0].tolist()
        assert all(first == PAD or image_of[first] == i for first, i in zip(firsts, each))
        kept = chunk.targets != IGNORE_INDEX
        for given_token, token in zip(chunk.ids[kept].tolist(), chunk.targets[kept].tolist()):
            assert before[token] == given_token
            learnt.append(token)
    assert sorted(learnt) == sorted(token for image in rows for row in image for token in row.text)


@pytest.mark.parametrize("question", [None, "is there a dog?"])
def test_a_text_is_cut_where_the_decoder_ends_and_only_a_whole_one_teaches_its_end(
    tiny: Captioner, question: str | None
) -> None:
    tokenizer = tiny.tokenizer
    record = Record(IMAGE, ("a brown dog runs through the grass",), question)
    whole = example(record, record.texts[0], tokenizer, 48)
    assert whole is not None
    length = len(whole.prompt) + len(whole.text) - 1  # what the decoder reads
    for max_length in range(len(whole.prompt) + 1, 48):
        row = example(record, record.texts[0], tokenizer, max_length)
        assert row is not None
        assert row.prompt == whole.prompt
        [chunk] = collate([[row]], PAD)
        assert chunk.ids.shape[1] == min(length, max_length)
        learnt = chunk.targets[chunk.targets != IGNORE_INDEX].tolist()
        assert learnt == list(whole.text[: len(learnt)])
        assert (learnt[-1] == tokenizer.end) == (length <= max_length)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("is there a dog? " * 40, "yes"),  # leaves no room for an answer
        ("is there a dog?", "."),
    ],
)
def test_what_cannot_be_asked_or_said_is_no_row(
    tiny: Captioner, question: str | None, text: str
) -> None:
    record = Record(IMAGE, (text,), question)
    assert example(record, text, tiny.tokenizer, 48) is None
    assert examples(Group(IMAGE, (record,), Source("x")), tiny.tokenizer, 48) == []


def test_a_question_is_learnt_exactly_where_the_captioner_would_read_it(tiny: Captioner) -> None:
    for count in range(1, 60):
        record = Record(IMAGE, ("yes",), " ".join(["dog"] * count))
        learnt = example(record, "yes", tiny.tokenizer, 48) is not None
        assert learnt == (not question_problem(tiny, record))


def test_without_rows_there_is_one_of_nothing_to_learn() -> None:
    [chunk] = collate([[], []], PAD)
    assert chunk.ids.shape == (1, 1)
    assert torch.equal(chunk.targets, torch.full((1, 1), IGNORE_INDEX))
