"""What a search is and gives: which of its words to look for, and what words and meaning found in one order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import regex

from vlm.documents.document_files import DocumentError
from vlm.documents.passages import Passage

By = Literal["both", "words", "meaning"]
CANDIDATES = 50  # that words and meaning each bring before they are fused

SMOOTHING = 10  # the paper has 60, which finds 1 to 6 of a hundred answers less on the planted corpus of benchmarks/

WEIGHT = 0.08  # chosen on the corpus of seed 1 of benchmarks/retrieval.py; reported is that of 0

TERMS = 64  # words of a search that count

# In so many English passages that they find nothing, and take the most time.
_FREQUENT = """
    a an and are as at be but by did do does for from had has have he her his how i in is it its not of on or she that
    the their them there they this to was we were what when where which who whom whose why will with you
"""
STOP_WORDS = frozenset(_FREQUENT.split())


class Found(NamedTuple):
    """A passage that a search found; the higher its `score`, the better: see `ranked`, and of databases `fused`."""

    passage: Passage
    score: float


class Searchable(Protocol):
    """What has passages: an index of one's own, or a database."""

    def search(self, text: str, k: int = 8, by: By = "both") -> list[Found]: ...


def check_search(text: str, k: int, most: int) -> None:
    """Raise DocumentError for an empty text, and for k outside 1 to `most`."""
    if not text.strip():
        raise DocumentError("there is nothing to search for; give some words")
    if not 1 <= k <= most:
        raise DocumentError(f"k must be from 1 to {most}, not {k}")


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


def ranked(
    closeness: Mapping[int, float], relevance: Mapping[int, float], words: int
) -> list[tuple[int, float]]:
    """Items with their scores, best first: closeness in meaning, -1..1, and relevance by `words` words, added.

    Relevance is BM25, of which a search of more words has more, so its mean over the words counts, WEIGHT times. Items
    without one of the two have 0 of it. Scores are added, and not ranks, as a rank does not tell how near the next one
    is: Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (ACM TOIS 2023). Of two with one
    score the smaller stands first.
    """
    scores = {
        item: closeness.get(item, 0.0) + WEIGHT * relevance.get(item, 0.0) / max(1, words)
        for item in {*closeness, *relevance}
    }
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
