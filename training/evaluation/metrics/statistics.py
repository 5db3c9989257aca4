"""Bootstrap confidence intervals, for one system and for the difference of two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


def _mean(rows: np.ndarray) -> float:
    return float(rows.mean())


@dataclass(frozen=True)
class Metric:
    """A metric together with what it takes to compute it again on a resample of the items.

    ``rows`` holds one row an item, ``(N,)`` or ``(N, K)``; ``statistic`` turns rows into the
    metric. The default is the mean of per-item scores. A corpus metric such as BLEU, which is no
    mean, keeps each item's counts as its row.
    """

    rows: np.ndarray
    statistic: Callable[[np.ndarray], float] = _mean

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise ValueError("A metric needs at least one item.")

    @property
    def value(self) -> float:
        return self.statistic(self.rows)


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The paired difference of two systems, ``second - first``, on the same items.

    ``p_value`` is two-sided: how often resampling the items turns the sign around.
    """

    value: float
    interval: Interval
    p_value: float

    @property
    def more_than_noise(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval.low > 0 or self.interval.high < 0


def bootstrap_interval(
    metric: Metric, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a metric over its items (Efron and Tibshirani, 1993).

    The same seed gives the same interval. Raises ``ValueError`` for a level outside (0, 1).
    """
    samples = [
        metric.statistic(metric.rows[items])
        for items in _resamples(len(metric.rows), resamples, seed)
    ]
    return _percentiles(np.array(samples), level)


def paired_difference(
    first: Metric, second: Metric, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Paired bootstrap of two systems scored on the same items in the same order (Koehn, 2004).

    Both are recomputed on each resample, so what makes an item hard for both cancels. Raises
    ``ValueError`` where the systems have different numbers of items.
    """
    if len(first.rows) != len(second.rows):
        raise ValueError(
            f"Two systems can be compared only on the same items: "
            f"{len(first.rows)} and {len(second.rows)} items were given."
        )
    samples = np.array(
        [
            second.statistic(second.rows[items]) - first.statistic(first.rows[items])
            for items in _resamples(len(first.rows), resamples, seed)
        ]
    )
    # One is added to each count so that a finite number of resamples never claims certainty.
    smaller_tail = min((samples <= 0).sum(), (samples >= 0).sum())
    return Difference(
        value=second.value - first.value,
        interval=_percentiles(samples, level),
        p_value=min(1.0, 2 * float(smaller_tail + 1) / (resamples + 1)),
    )


def _resamples(items: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield random.integers(items, size=items)


def _percentiles(samples: np.ndarray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"A confidence level lies between 0 and 1, not at {level}.")
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(float(low), float(high))
