from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.metrics.captions import score_captions
from training.evaluation.metrics.statistics import Metric, bootstrap_interval, paired_difference


def test_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    rows = np.random.default_rng(1).normal(50, 10, size=400)
    interval = bootstrap_interval(Metric(rows), resamples=4000)
    half_width = 1.96 * rows.std() / np.sqrt(len(rows))
    assert interval.low == pytest.approx(rows.mean() - half_width, abs=0.1)
    assert interval.high == pytest.approx(rows.mean() + half_width, abs=0.1)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        interval = bootstrap_interval(Metric(random.normal(0, 1, size=60)), resamples=200)
        covered += interval.low <= 0 <= interval.high
    assert 0.88 < covered / 200 < 0.99


def test_the_seed_decides() -> None:
    metric = Metric(np.arange(20.0))
    assert bootstrap_interval(metric, seed=3) == bootstrap_interval(metric, seed=3)
    assert bootstrap_interval(metric, seed=3) != bootstrap_interval(metric, seed=4)


def test_a_corpus_metric_is_recomputed_from_the_rows_of_each_resample() -> None:
    # A ratio of sums: always 2 here, though the mean of the per-item ratios is not.
    metric = Metric(
        np.array([[2, 1], [4, 2], [60, 30]]), lambda rows: rows[:, 0].sum() / rows[:, 1].sum()
    )
    interval = bootstrap_interval(metric)
    assert metric.value == interval.low == interval.high == 2


def test_bleu_interval_lies_around_corpus_bleu() -> None:
    references = {str(i): [f"a dog runs on the grass near house {i} today"] for i in range(30)}
    captions = {
        str(i): texts[0] if i % 2 else "a dog sits on the grass near a house"
        for i, texts in enumerate(references.values())
    }
    bleu = score_captions(captions, references).metrics["BLEU-4"]
    interval = bootstrap_interval(bleu)
    assert 20 < interval.low < bleu.value < interval.high < 95


def test_a_small_but_steady_gain_is_more_than_noise() -> None:
    random = np.random.default_rng(5)
    first = random.normal(50, 30, size=500)
    second = first + random.normal(1, 2, size=500)
    difference = paired_difference(Metric(first), Metric(second))
    assert difference.value == pytest.approx((second - first).mean())
    assert difference.more_than_noise
    assert difference.p_value < 0.01
    # Unpaired, the same gain drowns in the spread of the items.
    assert bootstrap_interval(Metric(first)).high > bootstrap_interval(Metric(second)).low


def test_equal_systems_do_not_differ() -> None:
    rows = np.random.default_rng(6).normal(size=100)
    difference = paired_difference(Metric(rows), Metric(rows))
    assert difference.value == 0
    assert difference.p_value == 1
    assert not difference.more_than_noise


def test_noise_is_called_noise_about_as_often_as_the_level_says() -> None:
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(200):
        first, second = random.normal(size=(2, 80))
        alarms += paired_difference(Metric(first), Metric(second), resamples=200).more_than_noise
    assert alarms / 200 < 0.12


def test_swapping_the_systems_turns_the_sign() -> None:
    first, second = np.random.default_rng(8).normal(size=(2, 50))
    forwards = paired_difference(Metric(first), Metric(second))
    backwards = paired_difference(Metric(second), Metric(first))
    assert forwards.value == pytest.approx(-backwards.value)
    assert forwards.interval.low == pytest.approx(-backwards.interval.high)
    assert forwards.p_value == backwards.p_value


def test_input_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        Metric(np.array([]))
    with pytest.raises(ValueError, match="confidence level"):
        bootstrap_interval(Metric(np.arange(3.0)), level=95)
    with pytest.raises(ValueError, match="2 and 3 items"):
        paired_difference(Metric(np.arange(2.0)), Metric(np.arange(3.0)))
