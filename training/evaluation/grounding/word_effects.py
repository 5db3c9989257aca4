"""What the image did for words of each kind: a histogram of `image_effect` by word class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from vlm.captioner import Captioner

from ...data import lexicon
from ...data.report import Report
from ..metrics.hallucination import singulars
from ..metrics.objects import OBJECT_NAMES
from ..metrics.statistics import Metric
from .places import Example
from .pointing import encoded, over_photos

# Nats between the histogram's bins: the image spoke against a word, did nothing, little, much, or all for it.
BINS = (-0.1, 0.1, 1.0, 3.0)

SMALL_WORDS = (
    "a an the of and or is are was be been being has have to it its his her their he she they that this these those "
    "there as by for from who which while other another some each"
)
PLACES = (
    "in on at with near by over under above below behind beside between through into onto off out up down across along "
    "around against front top side left right"
)
COLOURS = frozenset([*lexicon.COLOURS.split(), *lexicon.COLOUR_SPELLINGS])
NUMBERS = frozenset(["one", *lexicon.NUMBERS, *lexicon.NUMBERS.values(), "several", "many"])
ACTIONS = frozenset(
    word for name, forms in lexicon.ACTIONS.items() for word in (name, *forms.split())
)
THINGS = frozenset(
    word for name, others in lexicon.OBJECTS.items() for word in (name, *others.split())
)


@dataclass
class Effects:
    """The image's effect on each word of one class, in nats, and the number of its photo."""

    nats: list[float] = field(default_factory=list)
    photos: list[int] = field(default_factory=list)

    @property
    def mean(self) -> Metric:
        return over_photos(np.asarray(self.nats), np.asarray(self.photos))

    @property
    def shares(self) -> list[float]:
        """The share of the words in each bin, the first below `BINS[0]` and the last from `BINS[-1]` on."""
        counts = np.bincount(np.digitize(self.nats, BINS), minlength=len(BINS) + 1)
        return list(counts / len(self.nats))


def word_class(word: str) -> str:
    """The class of a word of a caption: thing, colour, number, action, place, small word or other."""
    word = word.lower().strip(".,;:!?'\"")
    if word in SMALL_WORDS.split():
        return "small word"
    if word in PLACES.split():
        return "place"
    if word in COLOURS:
        return "colour"
    if word in NUMBERS:
        return "number"
    if word in ACTIONS:
        return "action"
    if any(form in THINGS or OBJECT_NAMES.get(form) for form in singulars(word)):
        return "thing"
    return "other"


def caption_effects(
    captioner: Captioner, examples: Iterable[Example], report: Report
) -> dict[str, Effects]:
    """The image's effect on the words of the model's own captions, by class; the class with the most words first."""
    found: dict[str, Effects] = {}
    for number, image, _ in encoded(captioner, examples, report):
        caption = image.caption()
        for word, nats in zip(caption.words, caption.image_effect.words):
            effects = found.setdefault(word_class(word.text), Effects())
            effects.nats.append(nats)
            effects.photos.append(number)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1].nats)))
