"""What counts as a text, in a record whatever its reader."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.records import ImageRef, Record
from training.data.texts import NoText, real_text

IMAGE = ImageRef("1.jpg")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "is empty"),
        (" \t\r\n\u00a0\u3000", "is empty"),
        ("\ufeff", "has only characters that cannot be seen"),
        ("\u200b\u200d \u2060\u00ad", "has only characters that cannot be seen"),
        ("\x00\x1b\x7f", "has only characters that cannot be seen"),
        (None, "is missing"),
        (math.nan, "is missing"),
        (math.inf, "is missing"),
        ("nan", "is 'nan', which stands for a missing one"),
        ("NaN", "is 'NaN', which stands"),
        ("NULL", "is 'NULL', which stands"),
        ("<NA>", "is '<NA>', which stands"),
        ("None", "is 'None', which stands"),
        ("n/a", "is 'n/a', which stands"),
        ("...", r"is '\.\.\.', without a word"),
        (" ?! ", r"is '\?!', without a word"),
        ("caf\udce9", "has characters that are not UTF-8"),
        ("half a smile \ud83d", "has characters that are not UTF-8"),
        (True, "is true, not a text"),
        (b"a dog", "is bytes, not a text"),
        (["a dog"], "is a list, not a text"),
        ({"caption": "a dog"}, "is an object, not a text"),
    ],
)
def test_what_is_no_text_is_told_apart(value: object, said: str) -> None:
    with pytest.raises(NoText, match=f"^{said}"):
        real_text(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  a dog .\n", "a dog ."),
        ("\ufeffa dog\u200b", "a dog"),
        ("a\x00dog", "a dog"),
        ("two\nlines", "two\nlines"),
        ("none of them", "none of them"),
        ("🐶", "🐶"),
        ("👩‍🚀 in space", "👩‍🚀 in space"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        (3, "3"),
        (3.0, "3"),
        (2.5, "2.5"),
        ("6:10", "6:10"),
    ],
)
def test_what_is_a_text_is_kept_as_it_is_seen(value: object, text: str) -> None:
    assert real_text(value) == text


def test_people_answer_none_but_do_not_caption_so() -> None:
    assert real_text("none", is_answer=True) == "none"
    assert real_text("n/a", is_answer=True) == "n/a"
    assert real_text("?", is_answer=True) == "?"
    for missing in ("nan", "null", "<NA>"):
        with pytest.raises(NoText):
            real_text(missing, is_answer=True)


@given(st.text())
def test_a_text_is_its_own_text(text: str) -> None:
    try:
        once = real_text(text)
    except NoText:
        return
    assert real_text(once) == once.strip() == once != ""


def test_a_record_leaves_out_what_is_no_text_and_says_so() -> None:
    record = Record(IMAGE, ("a dog", " ", None, "nan"))  # type: ignore[arg-type]
    assert record.texts == ("a dog",)
    assert record.left_out == (
        "the caption 2 of 4 is empty",
        "the caption 3 of 4 is missing",
        "the caption 4 of 4 is 'nan', which stands for a missing one",
    )
    assert Record(IMAGE, ("yes", "none"), question="is it?").texts == ("yes", "none")


@pytest.mark.parametrize(
    ("texts", "question", "said"),
    [
        (("",), None, "the caption is empty"),
        (("", None), None, "the caption 1 of 2 is empty; the caption 2 of 2 is missing"),
        (("nan",), "what?", "the answer is 'nan'"),
        (("yes",), "  ", "the question is empty"),
        (("yes",), "None", "the question is 'None'"),
    ],
)
def test_no_record_is_made_without_a_text(
    texts: tuple[str, ...], question: str | None, said: str
) -> None:
    with pytest.raises(NoText, match=said):
        Record(IMAGE, texts, question=question)


def test_secret_answers_are_no_fault() -> None:
    assert Record(IMAGE, (), question="what?").left_out == ()
