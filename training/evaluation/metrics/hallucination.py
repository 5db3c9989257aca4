"""How often captions name objects that are not in the picture (CHAIR; Rohrbach et al., EMNLP 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .objects import COCO, EVERYDAY
from .statistics import Metric
from .tokenize import ptb_tokenize

DEFINITIONS = {
    "CHAIR-s": f"% of captions with an object, of {len(COCO | EVERYDAY)} kinds, that no reference of their image names",
    "CHAIR-i": "% of the objects that captions name, repeats included, that no reference of their image names",
}

Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Hallucination:
    """What each caption names, repeats included, and what of it no reference does; captions in their order."""

    named: list[list[str]]
    invented: list[list[str]]

    @property
    def metrics(self) -> dict[str, Metric]:
        """`DEFINITIONS`' rates in per cent; CHAIR-i only where any object is named."""
        counts = np.array([[len(x), len(n)] for x, n in zip(self.invented, self.named)])  # (N, 2)
        metrics = {"CHAIR-s": Metric(100.0 * (counts[:, 0] > 0))}
        if counts[:, 1].any():
            metrics["CHAIR-i"] = Metric(counts, _rate)
        return metrics


def hallucination(
    captions: Sequence[str], references: Sequence[Sequence[str]], names: Names
) -> Hallucination:
    """Compare the objects that captions name with those that their images' references name.

    `names` maps a word or phrase to the objects that it may name, as `objects.OBJECT_NAMES` does; an object that is
    not in this table is none. What may name several objects is true where a reference has any of them. The longest
    phrase wins, so "hot dog" names no dog, and regular plurals are found by themselves. People leave out what they
    take for granted, so the rates are above what detectors or drawn outlines of the objects would give, and the more
    so the fewer references an image has: compare models on the same images only.
    """
    longest = max(len(phrase.split()) for phrase in names)

    def mentions(text: str) -> list[str]:
        return list(_mentions(ptb_tokenize(text), names, longest))

    named = [mentions(caption) for caption in captions]
    shown = [
        {name for text in texts for phrase in mentions(text) for name in names[phrase]}
        for texts in references
    ]
    invented = [
        [phrase for phrase in phrases if objects.isdisjoint(names[phrase])]
        for phrases, objects in zip(named, shown, strict=True)
    ]
    return Hallucination(named, invented)


def _mentions(words: list[str], names: Names, longest: int) -> Iterator[str]:
    """The words and phrases that name an object, as `names` has them, in at most `longest` words each."""
    start = 0
    while start < len(words):
        for length in range(longest, 0, -1):
            phrase = " ".join(words[start : start + length])
            known = next((form for form in singulars(phrase) if form in names), None)
            if known is not None:
                if names[known]:
                    yield known
                start += length - 1
                break
        start += 1


def singulars(phrase: str) -> Iterator[str]:
    """The phrase, and what it may be the regular plural of."""
    yield phrase
    if phrase.endswith("ies"):
        yield phrase[:-3] + "y"
    if phrase.endswith("es"):
        yield phrase[:-2]
    if phrase.endswith("s"):
        yield phrase[:-1]


def _rate(counts: np.ndarray) -> float:
    invented, named = counts.sum(axis=0)
    return float(100 * invented / named) if named else 0.0
