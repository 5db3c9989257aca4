"""Object words with boxes: what counts as named and found, as GVD's script counts it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from training.data.records import ImageRef
from training.data.report import Report
from training.evaluation.grounding.localised import (
    Classes,
    Reference,
    best_levels,
    box_of,
    f1,
    overlap,
    reference,
)
from training.evaluation.grounding.places import Example, Named, Place

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
CLASSES = Classes(frozenset({"dog", "man", "glass", "dress", "ball"}))


def test_a_box_goes_around_the_peak_and_what_is_joined_to_it():
    weights = np.zeros((4, 4))
    weights[0:2, 0:2] = 1
    weights[3, 3] = 0.9  # as high, but elsewhere
    left, top, right, bottom = box_of(weights, 0.5)
    assert (left, top) == (0, 0)
    assert (right, bottom) == pytest.approx((0.5, 0.5), abs=0.02)
    assert box_of(weights, 0.5, RIGHT)[0] == 0.5
    whole = box_of(np.ones((4, 4)), 0.5)
    assert whole == (0, 0, 1, 1)
    small, large = box_of(weights, 0.9), box_of(weights, 0.1)
    assert overlap(small, (0, 0, 0.5, 0.5)) < overlap(box_of(weights, 0.5), (0, 0, 0.5, 0.5))
    assert large[2] > small[2]


def test_overlap_is_intersection_over_union():
    assert overlap(LEFT, LEFT) == 1
    assert overlap(LEFT, RIGHT) == 0
    assert overlap(LEFT, (0.0, 0.0, 1.0, 1.0)) == 0.5
    assert overlap((0.0, 0.0, 0.2, 0.2), (0.1, 0.0, 0.3, 0.2)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("dogs", "dog"), ("Men", "man"), ("glasses", "glass"), ("dress", "dress"), ("cat", None)],
)
def test_a_word_is_of_its_singulars_class(word, kind):
    assert CLASSES(word) == kind


def test_classes_are_frequent_last_words():
    phrases = ["a brown dog"] * 4 + ["dog"] + ["two men"] * 3 + ["a man"] * 2 + ["a dog toy"]
    assert Classes.of(phrases).known == {"dog", "man"}


def test_a_reference_knows_what_it_names_without_a_box():
    two = Place((LEFT, (0.5, 0.5, 0.6, 0.6)))
    example = Example(ImageRef("a"), "Two dogs and a man .", (Named("Two dogs", two),))
    found = reference(example, CLASSES)
    assert found == Reference((("dog", (0.0, 0.0, 0.6, 1.0)),), frozenset({"man"}))


def scored(said, *refs):
    references = [Reference(tuple(boxed), frozenset(others)) for boxed, others in refs]
    return {mode: f1([(said, references)], mode).value for mode in ("all", "loc")}


def test_right_words_in_right_boxes_are_all_there_is():
    ref = ([("dog", LEFT), ("man", RIGHT)], ())
    assert scored([("dog", LEFT), ("man", RIGHT)], ref) == {"all": 1, "loc": 1}
    assert scored([("dog", RIGHT), ("man", LEFT)], ref) == {"all": 0, "loc": 0}


def test_only_f1_all_counts_words_that_are_missing_or_invented():
    two = ([("dog", LEFT), ("man", RIGHT)], ())
    # Precision and recall are those of a class of two: 1/2 each; a class that is not said has neither.
    assert scored([("dog", LEFT)], two) == {"all": pytest.approx(0.5), "loc": pytest.approx(0.5)}
    dogs = [([("dog", LEFT)], ()), ([("man", RIGHT)], ()), ([("dog", LEFT)], ())]
    found = scored([("dog", LEFT), ("man", RIGHT)], *dogs)
    assert found["loc"] == 1
    # dog: 2 of 3 references have it, each finds it; man: 1 of 3.
    precision = (2 / 3 + 1 / 3) / 2
    assert found["all"] == pytest.approx(2 * precision / (precision + 1))


def test_what_a_reference_names_without_a_box_is_no_invention():
    boxed = [("dog", LEFT)]
    assert scored([("dog", LEFT), ("man", RIGHT)], (boxed, ("man",)), (boxed, ()))["all"] == 1
    blamed = scored([("dog", LEFT), ("man", RIGHT)], (boxed, ()), ([("man", RIGHT)], ("dog",)))
    assert blamed["all"] < 1


def test_a_class_twice_is_found_by_its_first_box():
    ref = ([("dog", LEFT), ("dog", RIGHT)], ())
    assert scored([("dog", LEFT)], ref)["loc"] == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert scored([("dog", RIGHT)], ref)["loc"] == pytest.approx(0, abs=1e-6)


def test_a_methods_level_is_the_best_for_its_own_maps(tiny, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    place = Place(((0.0, 0.0, 0.5, 0.5),))
    example = Example(ImageRef(str(tmp_path / "a.png")), "a dog", (Named("a dog", place),))

    def noisy(ground: float):
        """The thing is higher than its ground, which low levels take in, too."""
        weights = np.full((8, 8), ground)
        weights[:4, :4] = 0.75
        weights[1, 1], weights[7, 7] = 1.0, 0.0
        return weights

    def stepped(inner: float):
        weights = np.full((8, 8), 0.15)  # below the level that is found
        weights[:4, :4] = inner
        weights[1, 1], weights[7, 7] = 1.0, 0.0
        return lambda image, ids, question=None: [weights] * 2

    judged = {"stepped": stepped(0.3), "noisy": lambda *_: [noisy(0.4)] * 2}
    assert best_levels(tiny, [example], judged, Report()) == {"stepped": 0.2, "noisy": 0.5}
