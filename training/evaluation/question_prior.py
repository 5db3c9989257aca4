"""Answers by the question's first words alone: what a model that sees nothing and reads little would score."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from vlm.prompts import clean_text

from ..data.records import Record
from .predict import Prediction

WORDS = 4  # of a question's beginning
LEAST = 3  # questions that must begin alike


def predict_by_prior(learnt: Iterable[Record], asked: Sequence[Record]) -> list[Prediction]:
    """The answer that people gave most often to the questions that begin alike, of `learnt`, with its share of them.

    The longest beginning of at most `WORDS` words that `LEAST` questions share counts; the shortest has no word.
    Raises ValueError where nothing is learnt.
    """
    votes: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    questions: Counter[tuple[str, ...]] = Counter()
    for record in learnt:
        for beginning in _beginnings(record):
            questions[beginning] += 1
            votes[beginning].update(record.texts)
    if not questions:
        raise ValueError("a prior needs questions to learn from")

    def predict(record: Record) -> Prediction:
        shared = (b for b in _beginnings(record) if questions[b] >= LEAST)
        counts = votes[next(shared, ())]
        (answer, count), *_ = counts.most_common(1)
        return Prediction(record, answer, count / counts.total())

    return [predict(record) for record in asked]


def _beginnings(record: Record) -> list[tuple[str, ...]]:
    """The first words of a record's question, the longest beginning first."""
    words = tuple(clean_text(record.question or "").lower().split()[:WORDS])
    return [words[:length] for length in range(len(words), -1, -1)]
