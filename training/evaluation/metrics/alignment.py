"""Alignment error rate, and attention as an alignment.

Och and Ney, "A systematic comparison of various statistical alignment models", Computational Linguistics 29(1), 2003:
of the links that a method gives (A), those that an annotator calls sure (S) and those that they call possible (P,
which holds S), AER = 1 - (|A ∩ S| + |A ∩ P|) / (|A| + |S|).
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from torch import Tensor

Link = tuple[int, int]


def alignment_error_rate(found: Iterable[tuple[Set[Link], Set[Link], Set[Link]]]) -> float:
    """AER, from 0 to 1, of a corpus: the links of each sentence that were given, that are sure and that are possible.

    Links are counted over all sentences, so long ones weigh more. Raises ValueError where a sure link is not possible,
    or where there are no links at all.
    """
    agreed = total = 0
    for given, sure, possible in found:
        if not sure <= possible:
            raise ValueError(f"sure links are possible ones, but {sorted(sure - possible)} are not")
        agreed += len(given & sure) + len(given & possible)
        total += len(given) + len(sure)
    if not total:
        raise ValueError("there are no links to compare")
    return 1 - agreed / total


def links_of(weights: Tensor, least: float) -> set[Link]:
    """The links `(target, source)` of attention `(T, S)`: each row's largest share, and others of at least `least`."""
    linked = weights >= least
    linked[range(len(weights)), weights.argmax(dim=1)] = True
    return {(target, source) for target, source in linked.nonzero().tolist()}
