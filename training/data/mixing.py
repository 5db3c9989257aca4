"""The order of an epoch over several sources, and loading past what is broken.

The order is a pure function of (seed, epoch). Ranks only cut it, so the batches of an epoch are
the same records whatever their number.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from vlm.images import ImageError

from .records import DataError
from .report import Broken

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def epoch_order(
    sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int
) -> list[tuple[int, int]]:
    """Return the shuffled (source, index) pairs of one epoch.

    A weight says how often an epoch sees each item of its source: 1 is once, 2 is twice, 0.25 is a
    quarter of the items. Quarters of consecutive epochs follow one permutation, so that four of
    them see every item once. Raises DataError for weights that are negative or all zero.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise DataError(f"The weights of sources must be 0 or more, not {list(weights)}.")
    pairs: list[tuple[int, int]] = []
    for source, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        start, stop = int(size * weight * epoch), int(size * weight * (epoch + 1))
        turn, order = -1, []
        for position in range(start, stop):
            if position // size != turn:
                turn, order = position // size, list(range(size))
                random.Random(f"{seed}/{source}/{turn}").shuffle(order)
            pairs.append((source, order[position % size]))
    if not pairs:
        raise DataError(f"Sources of {list(sizes)} items with weights {list(weights)} give none.")
    random.Random(f"{seed}/{epoch}").shuffle(pairs)
    return pairs


def attempt(load: Callable[[Item], Loaded], item: Item, where: object) -> Loaded | Broken:
    """Return `load(item)`, or what is broken about its data; an error of the code is raised."""
    try:
        return load(item)
    except (DataError, ImageError) as error:
        return Broken(str(where), str(error))
