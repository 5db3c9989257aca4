"""Copies from passages: a whole one before a broken one, and before a denial that is less likely than not."""

from __future__ import annotations

import pytest

from vlm.answers import Alternative
from vlm.citations import NOT_THERE
from vlm.copies import whole_copy
from vlm.documents.passages import Passage

TEXT = (
    "The horse's examiner is Flack Sondchan. The man is 69 millimetres high, the cow 5599 inches."
    " A black and brown dog."
)
EVERYDAY = "horse examiner man high cow black and brown dog millimetres inches not in the documents"


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([("Flack", 0.33), ("flack sondchan", 0.27)], "flack sondchan"),  # goes on
        ([("sondchan", 0.33), ("flack", 0.3), ("flack sondchan", 0.1)], "flack sondchan"),
        ([("Flack Sondchan", 0.3), ("flack", 0.27)], "Flack Sondchan"),
        ([("5599 millimetres", 0.25), ("69 millimetres", 0.18)], "69 millimetres"),  # mixed
        ([("5599 millimetres", 0.9), ("69 millimetres", 0.1)], "5599 millimetres"),  # sure of it
        ([("5599 millimetres", 0.25), ("flack sondchan", 0.2)], "5599 millimetres"),  # another
        ([("brown", 0.3), ("black and brown", 0.29)], "brown"),  # the model's own words
        ([("white and brown", 0.3), ("brown", 0.29)], "white and brown"),
        ([(NOT_THERE, 0.4), ("dog", 0.3), ("flack sondchan", 0.1)], "flack sondchan"),
        ([(NOT_THERE, 0.6), ("flack sondchan", 0.35)], NOT_THERE),
        ([(NOT_THERE, 0.4), ("flack sondchan", 0.05)], NOT_THERE),
        ([(NOT_THERE, 0.4), ("flick sondchan", 0.3)], NOT_THERE),
    ],
)
def test_which_copy_is_taken(candidates, chosen):
    texts = [Alternative(text, confidence, 0.0) for text, confidence in candidates]
    passages = [Passage(TEXT, "notes", None, 0, len(TEXT))]
    everyday = {*EVERYDAY.split(), "white"}
    question = "How heavy is the horse?"
    assert whole_copy(texts, question, passages, everyday.__contains__).text == chosen


@pytest.mark.parametrize(
    ("question", "chosen"),
    [
        ("Who is the horse's examiner?", "flack"),
        ("What does the horse weigh?", NOT_THERE),
    ],
)
def test_where_all_words_of_the_question_stand_the_answer_is_not_nowhere(question, chosen):
    found = [(NOT_THERE, 0.95), ("not in the stable", 0.02), ("flack", 0.01)]
    texts = [Alternative(text, confidence, 0.0) for text, confidence in found]
    passages = [Passage(TEXT, "notes", None, 0, len(TEXT))]
    assert whole_copy(texts, question, passages, lambda word: True).text == chosen
    assert whole_copy(texts[:2], question, passages, lambda word: True).text == NOT_THERE
