"""How far today's requests are from yesterday's, by the population stability index.

PSI is the sum of `(p - q) ln(p / q)` over bins, `p` and `q` the shares of now and before. By the usual rule of thumb,
from Siddiqi, "Credit Risk Scorecards" (2006), below 0.1 nothing has changed, up to 0.25 something, and above much. Of
few lines chance alone makes it large: with no drift it is about `(1/N + 1/M)` times a chi-squared of one degree less
than there are bins (Yurdakul, "Statistical Properties of Population Stability Index", Western Michigan University,
2018). What is below the 99th percentile of that is called noise, whatever the rule says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

BINS = 10  # of numbers: tenths of those before
SOME, MUCH = 0.1, 0.25
NORMAL_99 = 2.326  # the 99th percentile of the normal distribution
PRIOR = 0.5  # of a line, in each bin, so that an empty one has a logarithm (Jeffreys)

Level = Literal["stable", "noise", "some", "much"]


@dataclass(frozen=True)
class Drift:
    """One signal, before and now: the shares of its bins, by name, the index, and what chance alone makes of it."""

    bins: tuple[str, ...]
    before: tuple[float, ...]
    now: tuple[float, ...]
    index: float
    noise: float

    @property
    def level(self) -> Level:
        """What the rule of thumb says, where it is more than noise."""
        if self.index < SOME:
            return "stable"
        if self.index <= self.noise:
            return "noise"
        return "some" if self.index < MUCH else "much"


def drift_of_labels(before: Sequence[str], now: Sequence[str]) -> Drift:
    """The drift of what has a kind, such as verdicts; `before` and `now` hold at least one each."""
    was, present = Counter(before), Counter(now)
    names = [name for name, _ in (was + present).most_common()]
    return _drift(names, [was[name] for name in names], [present[name] for name in names])


def drift_of_numbers(before: Sequence[float], now: Sequence[float]) -> Drift:
    """The drift of numbers, in tenths of those before; where they take few values, each is a bin of its own."""
    values = np.unique(before)
    if len(values) <= BINS:
        named = {value: f"{value:.4g}" for value in values.tolist()}
        below = f"below {values[0]:.4g}"
        above = f"above {values[-1]:.4g}"

        def name(value: float) -> str:
            nearest = "between" if value < values[-1] else above
            return named.get(value, below if value < values[0] else nearest)

        return drift_of_labels([name(x) for x in before], [name(x) for x in now])
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    shown = [f"{edge:.3g}" for edge in edges]
    names = [
        f"to {shown[0]}",
        *(f"{a} to {b}" for a, b in pairwise(shown)),
        f"over {shown[-1]}",
    ]
    was, present = (
        np.bincount(np.searchsorted(edges, values), minlength=len(names)).tolist()
        for values in (before, now)
    )
    return _drift(names, was, present)


def _drift(names: Sequence[str], was: Sequence[int], present: Sequence[int]) -> Drift:
    """From the counts of each bin."""
    lines = sum(was), sum(present)
    before, now = (
        [(count + PRIOR) / (total + PRIOR * len(names)) for count in counts]
        for counts, total in zip((was, present), lines)
    )
    index = math.fsum((p - q) * math.log(p / q) for p, q in zip(now, before))
    noise = (1 / lines[0] + 1 / lines[1]) * _chi_squared_99(len(names) - 1)
    return Drift(
        tuple(names),
        tuple(count / lines[0] for count in was),
        tuple(count / lines[1] for count in present),
        index,
        noise,
    )


def _chi_squared_99(degrees: int) -> float:
    """The 99th percentile of chi-squared, within 1 % of it (Wilson and Hilferty, 1931)."""
    if degrees == 0:
        return 0.0
    part = 2 / (9 * degrees)
    return degrees * (1 - part + NORMAL_99 * math.sqrt(part)) ** 3
