"""Grounded captioning: whether a caption names what is there, and boxes it rightly. F1_all and F1_loc of GVD.

After the script by which Zhou et al. ("Grounded video description", CVPR 2019) evaluate Flickr30k Entities: precision
and recall of object words by class, their means over classes, and F1 of these. A word counts where its box and the
reference's overlap by more than half (intersection over union). F1_all also counts words that a caption should not
have, or lacks; F1_loc only those that it shares with the reference. Their classes are a list of their own, and their
boxes a detector's; here a class is a frequent last word of phrases, and a box is drawn around a map's peak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from vlm.captioner import Captioner

from ...data.lexicon import IRREGULAR_PLURALS
from ...data.records import DataError
from ...data.report import Report
from ..metrics.hallucination import singulars
from ..metrics.statistics import Metric
from .explainers import Explainer
from .places import Box, Example, Place, word_positions
from .pointing import encoded, seen

OVERLAP = 0.5
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)  # low ones are for sharp maps
FINE = 64  # points a side on which a box is drawn
FREQUENT = 5  # phrases that a class must end

Mode = Literal["all", "loc"]
MODES: tuple[Mode, ...] = ("all", "loc")
Boxed = tuple[str, Box]
"""An object word: its class and its box."""


@dataclass(frozen=True)
class Classes:
    """Words of classes, which are their singulars; a word of none has None."""

    known: frozenset[str]

    @classmethod
    def of(cls, phrases: Iterable[str]) -> Classes:
        """The frequent last words of phrases. Raises DataError where there is none."""
        counts = Counter(_last(phrase) for phrase in phrases)
        frequent = frozenset(word for word, count in counts.items() if count >= FREQUENT)
        if not frequent:
            raise DataError(
                f"no word ends {FREQUENT} phrases of train photos, so there is no class"
            )
        return cls(frequent)

    def __call__(self, word: str) -> str | None:
        word = _SINGULAR.get(word.lower(), word.lower())
        return next((form for form in reversed(list(singulars(word))) if form in self.known), None)


_SINGULAR = {plural: name for name, plural in IRREGULAR_PLURALS.items()}


def _last(phrase: str) -> str:
    word = (phrase.lower().split() or [""])[-1]
    return _SINGULAR.get(word, word)


@dataclass(frozen=True)
class Reference:
    """A human caption: its object words with boxes, in their order, and the classes that it names without."""

    boxed: tuple[Boxed, ...]
    others: frozenset[str]


def reference(example: Example, classes: Classes) -> Reference:
    """A human caption with all of its phrases."""
    boxed = [
        (kind, around(named.place))
        for named in example.named
        if (kind := classes(_last(named.words)))
    ]
    others = {classes(word) for word in example.text.split()} - {kind for kind, _ in boxed}
    return Reference(tuple(boxed), frozenset(kind for kind in others if kind))


def around(place: Place) -> Box:
    """One box around all of a place's."""
    left, top, right, bottom = zip(*place.boxes)
    return min(left), min(top), max(right), max(bottom)


def box_of(weights: np.ndarray, level: float, part: Box = (0.0, 0.0, 1.0, 1.0)) -> Box:
    """The box around a map's peak down to a `level` between its least and its highest weight.

    The map `(h, w)` lies on `part` of the photo. What is as high elsewhere, and not joined to the peak, is left out.
    """
    fine = F.interpolate(
        torch.from_numpy(weights)[None, None].double(), (FINE, FINE), mode="bilinear"
    )
    low, high = fine.min(), fine.max()
    above = (fine >= low + level * (high - low)).double()
    joined = (fine == high).double()
    while True:
        grown = F.max_pool2d(joined, 3, 1, 1) * above
        if grown.equal(joined):
            break
        joined = grown
    rows, columns = np.nonzero(joined[0, 0].numpy())
    left, top, right, bottom = part
    across, down = (right - left) / FINE, (bottom - top) / FINE
    return (
        left + across * float(columns.min()),
        top + down * float(rows.min()),
        left + across * float(columns.max() + 1),
        top + down * float(rows.max() + 1),
    )


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area, others = ((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return width * height / (area + others - width * height)


def f1(photos: Sequence[tuple[Sequence[Boxed], Sequence[Reference]]], mode: Mode) -> Metric:
    """F1 of photos' captions, each its object words with boxes, against their references; for intervals over photos.

    As GVD's script does it: a class that a reference has twice is found by its first box, a word that the reference
    has without a box is not counted, and classes that no reference has add nothing but to their own precision.
    """
    names = sorted({kind for _, refs in photos for ref in refs for kind, _ in ref.boxed})
    place = {name: number for number, name in enumerate(names)}
    # Right and all, of precision and of recall, and how often references have the class.
    counts = np.zeros((len(photos), 5, len(names)))
    for photo, (said, refs) in enumerate(photos):
        for ref in refs:
            first: dict[str, Box] = {}
            for kind, box in ref.boxed:
                first.setdefault(kind, box)
                counts[photo, 4, place[kind]] += 1
            for kind, box in said:
                if kind in first:
                    counts[photo, :2, place[kind]] += (overlap(box, first[kind]) > OVERLAP, 1)
                elif mode == "all" and kind not in ref.others and kind in place:
                    counts[photo, 1, place[kind]] += 1
            found: dict[str, Box] = {}
            for kind, box in said:
                found.setdefault(kind, box)
            for kind, box in ref.boxed:
                if kind in found:
                    counts[photo, 2:4, place[kind]] += (overlap(box, found[kind]) > OVERLAP, 1)
                elif mode == "all":
                    counts[photo, 3, place[kind]] += 1

    def score(drawn: np.ndarray) -> float:
        right, said, recalled, wanted, there = drawn.reshape(-1, 5, len(names)).sum(axis=0)
        precision = (right / said.clip(min=1))[there > 0].mean()
        recall = (recalled / wanted.clip(min=1))[there > 0].mean()
        return float(2 * precision * recall / max(precision + recall, 1e-9))

    return Metric(counts.reshape(len(photos), -1), score)


def best_levels(
    captioner: Captioner,
    examples: Iterable[Example],
    explainers: Mapping[str, Explainer],
    report: Report,
) -> dict[str, float]:
    """The level at which each method's boxes are most often right for phrases that are typed in, of train photos."""
    right = {name: np.zeros(len(LEVELS)) for name in explainers}
    for _, image, own in encoded(captioner, examples, report):
        for example in own:
            ids = captioner.tokenizer.encode(example.text)
            ids = ids[: captioner.model.config.decoder.max_length - 1]
            words = [word.text for word in captioner.tokenizer.words(ids)]
            wanted = [
                (positions[-1], around(named.place))
                for named in example.named
                if (positions := word_positions(captioner.tokenizer, named.words, words))
            ]
            for name, explain in explainers.items():
                maps = explain(image, ids, None)
                for position, place in wanted:
                    boxes = [box_of(maps[position], level, seen(image)) for level in LEVELS]
                    right[name] += [overlap(box, place) > OVERLAP for box in boxes]
    return {name: LEVELS[int(counts.argmax())] for name, counts in right.items()}


def localise(
    captioner: Captioner,
    examples: Sequence[Example],
    explainers: Mapping[str, Explainer],
    levels: Mapping[str, float],
    classes: Classes,
    report: Report,
) -> dict[str, list[tuple[list[Boxed], list[Reference]]]]:
    """For each method, the object words of a photo's own caption with boxes, and the photo's references."""
    found: dict[str, list[tuple[list[Boxed], list[Reference]]]] = {n: [] for n in explainers}
    for _, image, own in encoded(captioner, examples, report):
        refs = [reference(example, classes) for example in own]
        ids = image.caption().ids
        words = captioner.tokenizer.words(ids)
        for name, explain in explainers.items():
            maps = explain(image, ids, None)
            said = [
                (kind, box_of(weights, levels[name], seen(image)))
                for word, weights in zip(words, maps)
                if (kind := classes(word.text))
            ]
            found[name].append((said, refs))
    return found
