"""Answers that name the photo's thing and the documents': told where there are two, and not where there is one."""

from __future__ import annotations

import math

import pytest

import vlm
from vlm.captioner import Captioner
from vlm.contradictions import without_false_ones
from vlm.documents.passages import Passage
from vlm.generate import Hypothesis
from vlm.prompts import text_ids
from vlm.weights.hub import bundled_folder

EXAMPLES = bundled_folder() / "examples"
NAMES = ["The dog is called Brolka.", "The cat is called Tifu.", "The horse is called Murn."]
QUESTION = "What animal is in the picture?"


@pytest.fixture(scope="module")
def small() -> Captioner:
    return vlm.load()


@pytest.mark.parametrize(
    ("photo", "documents", "said"),
    [
        ("dog", ["The photo shows a cat.", *NAMES], "dog, but the documents say cat"),
        ("dog", ["The photo shows a dog.", *NAMES], "dog"),
        ("dog", NAMES, "dog"),
        (
            "kitten",
            ["In the picture there is a horse.", *NAMES],
            "cat, but the documents say horse",
        ),
        ("kitten", ["This is a photo of a cat."], "cat"),
    ],
)
def test_only_a_passage_about_the_photo_that_names_another_thing_contradicts(
    small, photo, documents, said
):
    image = small.encode(EXAMPLES / f"{photo}.jpg").beside(documents)
    answer = image.ask(QUESTION)
    assert answer.text == said
    # Its end may stand for what the documents say, which is no effect of the photo.
    typed = image.explain(said, QUESTION)
    assert answer.image_effect.total == pytest.approx(typed.image_effect.total, abs=1e-3)


def test_what_becomes_one_text_is_as_likely_as_all_of_them(small):
    def hypothesis(text: str, likely: float) -> Hypothesis:
        ids = tuple(text_ids(small.tokenizer, text))
        logprobs = (math.log(0.5), *[0.0] * (len(ids) - 1), math.log(likely / 0.5))
        return Hypothesis(ids, logprobs, math.log(likely), True)

    asked = [
        hypothesis("dog, but the documents say cat", 0.2),
        hypothesis("dog", 0.1),
        hypothesis("dog, but the documents say fish", 0.05),
        hypothesis("cow", 0.04),
    ]
    alone = [Passage("The cat is called Tifu.", "notes", None, 0, 23)]
    dog, cow = without_false_ones(small.tokenizer, asked, alone)
    assert small.tokenizer.decode(dog.ids) == "dog"
    assert math.exp(sum(dog.logprobs)) == pytest.approx(0.35)
    assert len(dog.logprobs) == len(dog.ids) + 1
    assert cow == asked[-1]
    about = [Passage("The photo shows a cat.", "notes", None, 0, 22)]
    assert without_false_ones(small.tokenizer, asked, about) == asked
    cut = Hypothesis(asked[0].ids, asked[0].logprobs[:-1], -1.0, False)
    assert without_false_ones(small.tokenizer, [cut], alone) == [cut]


def test_a_text_that_is_typed_in_stays_as_it_is(small):
    image = small.encode(EXAMPLES / "dog.jpg").beside(NAMES)
    typed = "dog, but the documents say dog"
    assert image.explain(typed, QUESTION).text == typed
