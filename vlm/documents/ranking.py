"""Which words of a search to look for, and several rankings as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import regex

SMOOTHING = 10  # the paper has 60, which finds 1 to 6 of a hundred answers less on the planted corpus of benchmarks/

TERMS = 64  # words of a search that count

# In so many English passages that they find nothing, and take the most time.
_FREQUENT = """
    a an and are as at be but by did do does for from had has have he her his how i in is it its not of on or she that
    the their them there they this to was we were what when where which who whom whose why will with you
"""
STOP_WORDS = frozenset(_FREQUENT.split())


def telling_words(text: str) -> list[str]:
    """The words of a search in lower case, each once and TERMS at most; STOP_WORDS if it has no others."""
    words = list(dict.fromkeys(regex.findall(r"[\p{L}\p{N}\p{M}]+", text.lower())))
    return ([word for word in words if word not in STOP_WORDS] or words)[:TERMS]


def fused(rankings: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """Items of several rankings with their scores, best first: the sum of 1 / (SMOOTHING + rank) over the rankings.

    Cormack et al., "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods" (2009). Of two
    with one score the smaller stands first.
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] += 1 / (SMOOTHING + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
