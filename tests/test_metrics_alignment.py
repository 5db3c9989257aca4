"""Alignment error rates that were computed by hand."""

from __future__ import annotations

import pytest
import torch

from training.evaluation.metrics.alignment import alignment_error_rate, links_of

S = {(0, 0), (1, 1)}
P = S | {(1, 2)}


@pytest.mark.parametrize(
    ("given", "sure", "possible", "rate"),
    [
        (S, S, P, 0.0),
        (P, S, P, 0.0),  # a possible link costs nothing
        ({(0, 0)}, S, P, 1 - (1 + 1) / (1 + 2)),  # a sure one is missing
        ({(0, 0), (1, 2)}, S, P, 1 - (1 + 2) / (2 + 2)),  # in its place a possible one
        ({(0, 0), (0, 1)}, S, P, 1 - (1 + 1) / (2 + 2)),  # in its place a wrong one
        ({(0, 2)}, S, P, 1.0),
        (set(), S, P, 1.0),
        (P, P, P, 0.0),
    ],
)
def test_by_hand(given, sure, possible, rate) -> None:
    assert alignment_error_rate([(given, sure, possible)]) == pytest.approx(rate)


def test_links_are_counted_over_the_corpus() -> None:
    """Not the mean of the sentences' rates, 0 and 1 / 3: of 2 + 2 and 1 + 2 links 6 agree."""
    corpus = [(S, S, P), ({(0, 0)}, S, P)]
    assert alignment_error_rate(corpus) == pytest.approx(1 - 6 / 7)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="not"):
        alignment_error_rate([(S, P, S)])
    with pytest.raises(ValueError, match="no links"):
        alignment_error_rate([])


def test_links_are_the_largest_share_and_large_ones() -> None:
    weights = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.19]])
    before = weights.clone()
    assert links_of(weights, 0.25) == {(0, 0), (0, 1), (1, 0)}
    assert links_of(weights, 0.9) == {(0, 0), (1, 0)}
    assert torch.equal(weights, before)
