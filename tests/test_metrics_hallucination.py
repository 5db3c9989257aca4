from __future__ import annotations

import pytest

from training.evaluation.metrics.hallucination import hallucination

SYNONYMS = {
    "dog": "dog",
    "puppy": "dog",
    "cat": "cat",
    "bus": "bus",
    "horse": "horse",
    "man": "person",
    "men": "person",
    "hot dog": "hot dog",
    "fire hydrant": "fire hydrant",
}


def test_rates_over_mentions_and_over_captions() -> None:
    captions = {
        "1": "A puppy and a cat sit by a man .",  # the cat is invented
        "2": "A dog beside a dog .",
        "3": "Nothing known here .",
    }
    objects = {"1": {"dog", "person"}, "2": {"dog"}, "3": set()}
    result = hallucination(captions, objects, SYNONYMS)
    assert result.chair_i == pytest.approx(100 * 1 / 5)
    assert result.chair_s == pytest.approx(100 * 1 / 3)
    assert result.invented == {"1": ["cat"], "2": [], "3": []}


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a hot dog", ["hot dog"]),
        ("two hot dogs and a dog", ["hot dog", "dog"]),
        ("puppies on buses with horses", ["dog", "bus", "horse"]),
        ("Fire hydrants, men.", ["fire hydrant", "person"]),
        ("a dogged catalogue", []),
        ("", []),
    ],
)
def test_objects_are_found_by_longest_phrase_and_in_the_plural(
    caption: str, named: list[str]
) -> None:
    assert hallucination({"1": caption}, {"1": set()}, SYNONYMS).invented == {"1": named}


def test_captions_that_name_nothing_invent_nothing() -> None:
    result = hallucination({"1": "a quiet place"}, {"1": set()}, SYNONYMS)
    assert (result.chair_i, result.chair_s) == (0, 0)


def test_an_image_without_an_object_list_is_an_error() -> None:
    with pytest.raises(KeyError, match="2"):
        hallucination({"2": "a dog"}, {"1": {"dog"}}, SYNONYMS)
