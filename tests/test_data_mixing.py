from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.mixing import attempt, epoch_order
from training.data.records import DataError
from training.data.report import Broken

sizes_and_weights = st.lists(
    st.tuples(st.integers(1, 20), st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0])),
    min_size=1,
    max_size=4,
)


def test_order_is_fixed_for_good():
    """A resumed run must meet the order it left, also under another version of Python."""
    order = [(1, 1), (0, 0), (0, 1), (0, 3), (0, 2)]
    assert epoch_order([4, 3], [1, 0.5], seed=1, epoch=2) == order


@given(sizes_and_weights, st.integers(0, 5))
def test_weights_say_how_often_an_item_is_seen(sources, seed):
    sizes, weights = zip(*sources)
    sizes, weights = [4, *sizes], [1.0, *weights]  # the first keeps every epoch non-empty
    epochs = [epoch_order(sizes, weights, seed, epoch) for epoch in range(4)]
    seen = Counter(chain.from_iterable(epochs))
    for source, (size, weight) in enumerate(zip(sizes, weights)):
        assert {seen[source, index] for index in range(size)} == {int(4 * weight)}
        for order in epochs:
            drawn = sum(1 for place in order if place[0] == source)
            assert abs(drawn - size * weight) <= 1


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch_order([50], [1], seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_weights_that_give_nothing_are_errors():
    with pytest.raises(DataError, match="must be 0 or more"):
        epoch_order([3], [-1], 0, 0)
    with pytest.raises(DataError, match="give none"):
        epoch_order([3, 4], [0, 0], 0, 0)


def shown(item: int) -> int:
    if item == 7:
        raise DataError("seven is torn")
    return 10 // item


def test_what_is_broken_is_told_and_an_error_of_the_code_is_raised() -> None:
    assert attempt(shown, 5, "5.jpg") == 2
    assert attempt(shown, 7, Path("7.jpg")) == Broken("7.jpg", "seven is torn")
    with pytest.raises(ZeroDivisionError):
        attempt(shown, 0, "0.jpg")
