"""What is in a dataset: lengths, vocabulary, answer types, and what its splits share."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, combinations
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .records import ImageRef, Record


@dataclass
class Summary:
    """Counts over the records of one split; lengths are in words."""

    records: int = 0
    synthetic: int = 0
    texts: int = 0
    images: dict[str, ImageRef] = field(default_factory=dict)  # by key
    questions: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    text_lengths: Counter[int] = field(default_factory=Counter)
    question_lengths: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Overlap:
    """What two splits share: equal image bytes, and equal captions or questions."""

    first: str
    second: str
    images: tuple[tuple[str, str], ...]  # pairs of places with equal bytes
    captions: int
    questions: int


def split_words(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return re.findall(r"\w+(?:'\w+)?", text.lower())


def summarise(records: Iterable[Record]) -> Summary:
    """Count the records of one split."""
    summary = Summary()
    for record in records:
        summary.records += 1
        summary.synthetic += record.synthetic
        summary.images.setdefault(record.image.key, record.image)
        summary.kinds[record.kind or ("caption" if record.question is None else "question")] += 1
        for text in record.texts:
            words = split_words(text)
            summary.texts += 1
            summary.text_lengths[len(words)] += 1
            summary.words.update(words)
            (summary.captions if record.question is None else summary.answers)[text] += 1
        if record.question is not None:
            words = split_words(record.question)
            summary.questions[record.question] += 1
            summary.question_lengths[len(words)] += 1
            summary.words.update(words)
    return summary


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest value that at least `share` of the counted items do not exceed; 0 of none."""
    needed = share * sum(counts.values())
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= needed:
            return value
    return 0


def find_overlaps(splits: Mapping[str, Summary]) -> list[Overlap]:
    """Compare each pair of splits; reads every image once. Raises DataError for a missing image."""
    digests = {
        name: {hashlib.sha256(ref.read()).digest(): ref for ref in summary.images.values()}
        for name, summary in splits.items()
    }
    overlaps = []
    for first, second in combinations(splits, 2):
        shared = digests[first].keys() & digests[second].keys()
        pairs = sorted((str(digests[first][d]), str(digests[second][d])) for d in shared)
        a, b = splits[first], splits[second]
        overlaps.append(
            Overlap(
                first,
                second,
                images=tuple(pairs),
                captions=len(a.captions.keys() & b.captions.keys()),
                questions=len(a.questions.keys() & b.questions.keys()),
            )
        )
    return overlaps


def plot_summaries(splits: Mapping[str, Summary], path: Path) -> None:
    """Draw lengths, vocabulary and answer types of the splits as a PNG or PDF file."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    (lengths, asked), (vocabulary, kinds) = figure.subplots(2, 2)
    for name, summary in splits.items():
        _plot_lengths(lengths, summary.text_lengths, name)
        _plot_lengths(asked, summary.question_lengths, name)
        counts = sorted(summary.words.values(), reverse=True)
        covered = [100 * seen / summary.words.total() for seen in accumulate(counts)]
        vocabulary.plot(range(1, len(covered) + 1), covered, label=name)
    lengths.set(title="Captions and answers", xlabel="words", ylabel="% of texts")
    asked.set(title="Questions", xlabel="words", ylabel="% of questions")
    vocabulary.set(title="Vocabulary", xlabel="most frequent words", ylabel="% of text covered")
    vocabulary.set_xscale("log")
    vocabulary.legend()
    _plot_kinds(kinds, splits)
    figure.savefig(path, dpi=120)


def _plot_lengths(axes: Axes, counts: Counter[int], name: str) -> None:
    total = sum(counts.values())
    values = sorted(counts)
    axes.plot(values, [100 * counts[value] / total for value in values], marker=".", label=name)


def _plot_kinds(axes: Axes, splits: Mapping[str, Summary]) -> None:
    total = sum((summary.kinds for summary in splits.values()), Counter())
    names = [name for name, _ in total.most_common(12)]
    height = 0.8 / len(splits)
    for i, (split, summary) in enumerate(splits.items()):
        shares = [100 * summary.kinds[name] / max(1, summary.records) for name in names]
        axes.barh([place + i * height for place in range(len(names))], shares, height, label=split)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set(title="Kinds", xlabel="% of records")
