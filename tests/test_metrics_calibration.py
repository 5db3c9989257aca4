from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.metrics.calibration import (
    accuracy_at_coverage,
    calibration,
    selective_accuracy,
)

shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)


def test_error_of_a_planted_miscalibration() -> None:
    # 0.95 confident and right half of the time; 0.25 confident and right a quarter of the time.
    confidences = np.array([0.95] * 4 + [0.25] * 4)
    accuracies = np.array([1, 1, 0, 0, 1, 0, 0, 0])
    result = calibration(confidences, accuracies)
    assert result.ece == pytest.approx(100 * 0.45 / 2)
    filled = {bin.low: bin for bin in result.bins if bin.n}
    assert list(filled) == [0.2, 0.9]
    assert filled[0.9].confidence == pytest.approx(0.95)
    assert filled[0.9].accuracy == pytest.approx(0.5)
    assert sum(bin.n for bin in result.bins) == 8


def test_edges_of_the_range_fall_into_the_outer_bins() -> None:
    result = calibration(np.array([0.0, 1.0]), np.array([0, 1]))
    assert result.bins[0].n == result.bins[-1].n == 1
    assert result.ece == 0


@given(shares)
def test_error_lies_between_0_and_100_and_bins_hold_every_item(
    pairs: list[tuple[float, float]],
) -> None:
    confidences, accuracies = np.array(pairs).T
    result = calibration(confidences, accuracies)
    assert 0 <= result.ece <= 100
    assert sum(bin.n for bin in result.bins) == len(pairs)


def test_selective_accuracy_answers_the_most_confident_first() -> None:
    confidences, accuracies = np.array([0.2, 0.9, 0.8, 0.5]), np.array([0, 1, 1, 0])
    coverage, accuracy = selective_accuracy(confidences, accuracies)
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(accuracy, [1, 1, 2 / 3, 1 / 2])
    assert accuracy_at_coverage(confidences, accuracies, 0.5) == 100
    assert accuracy_at_coverage(confidences, accuracies, 0.51) == pytest.approx(200 / 3)
    assert accuracy_at_coverage(confidences, accuracies, 1) == 50


@given(shares)
def test_order_of_items_changes_nothing(pairs: list[tuple[float, float]]) -> None:
    confidences, accuracies = np.array(pairs).T
    _, forwards = selective_accuracy(confidences, accuracies)
    _, backwards = selective_accuracy(confidences[::-1], accuracies[::-1])
    np.testing.assert_allclose(forwards, backwards, atol=1e-9)
    assert forwards[-1] == pytest.approx(accuracies.mean())


def test_a_share_of_items_is_not_rounded_up_by_floating_point() -> None:
    confidences = np.linspace(1, 0, 30)
    accuracies = np.array([1.0] * 3 + [0.0] * 27)
    assert accuracy_at_coverage(confidences, accuracies, 0.1) == 100


@pytest.mark.parametrize(
    ("confidences", "accuracies", "message"),
    [
        ([0.5], [1, 0], "equally long"),
        ([], [], "non-empty"),
        ([1.5], [1], "Confidences"),
        ([0.5], [100], "Accuracies"),
        ([float("nan")], [1], "Confidences"),
    ],
)
def test_input_that_makes_no_sense_is_refused(
    confidences: list[float], accuracies: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        calibration(np.array(confidences), np.array(accuracies))


def test_no_coverage_is_no_accuracy() -> None:
    with pytest.raises(ValueError, match="Coverage"):
        accuracy_at_coverage(np.array([0.5]), np.array([1.0]), 0)
