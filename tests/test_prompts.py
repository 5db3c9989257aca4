"""Text meets the model in one spelling, whoever wrote it, in training as in use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.prompts import (
    QuestionError,
    caption_prompt,
    clean_question,
    clean_text,
    question_prompt,
    text_ids,
)

SPELLINGS = [
    "What is the man's dog doing?",
    "what is the man's dog doing",
    "  what  is the\tman's\ndog doing ?",
    "WHAT IS THE MAN'S DOG DOING??",
    "what is the man’s dog doing？",
    "what is the man‘s dog doing?.",
    "What is the man's dog doing .",
    "ｗｈａｔ is the man's dog doing?!",
    "\ufeffwhat is the\u00a0man's dog\u200b doing ? ",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_question_has_one_prompt(tiny, spelling):
    prompt = question_prompt(tiny.tokenizer, spelling)
    assert prompt == question_prompt(tiny.tokenizer, SPELLINGS[0])
    assert (prompt.ids[0], prompt.ids[-1]) == (tiny.tokenizer.question, tiny.tokenizer.answer)
    given = [prompt.ids[i] for i in prompt.given]
    assert tiny.tokenizer.decode(given) == "what is the man's dog doing?"


def test_use_asks_as_training_does(tiny):
    from training.data.records import ImageRef, Record
    from training.loop.examples import examples
    from training.recipe.recipe import Source
    from training.recipe.sources import Group

    records = tuple(
        Record(ImageRef("a.png"), ("A dog .",), question=spelling) for spelling in SPELLINGS
    )
    rows = examples(Group(records[0].image, records, Source("")), tiny.tokenizer, 48)
    assert {row.prompt for row in rows} == {tiny.prompt(spelling).ids for spelling in SPELLINGS}
    assert {row.text[:-1] for row in rows} == {tuple(text_ids(tiny.tokenizer, "A dog."))}


@pytest.mark.parametrize("question", ["", "  \n", "?", " ?! .", "\u200b"])
def test_a_question_without_a_word_is_refused(tiny, question):
    with pytest.raises(QuestionError, match="empty"):
        question_prompt(tiny.tokenizer, question)


@given(text=st.text())
def test_cleaning_is_done_once(text):
    clean = clean_text(text)
    assert clean_text(clean) == clean
    try:
        question = clean_question(text)
    except QuestionError:
        return
    assert clean_question(question) == question
    assert question.endswith("?")


def test_a_given_token_has_its_own_row_and_a_chosen_one_the_row_before(tiny):
    prompt = question_prompt(tiny.tokenizer, "is it")
    size = len(prompt.ids)
    assert prompt.rows(3) == [*range(size), size - 1, size, size + 1]
    assert caption_prompt(tiny.tokenizer).rows(2) == [0, 0, 1]
