"""The pointing game: whether a word's map peaks on what the word names, and how much of it lies there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vlm.captioner import BATCH, Captioner, synchronise
from vlm.encoded_image import EncodedImage
from vlm.images import ImageError
from vlm.prompts import text_ids

from ...data.records import DataError
from ...data.report import Broken, Report
from ..metrics.statistics import Metric
from .explainers import Explainer
from .places import SMALL, Box, Example, Place, word_positions

Pooling = Literal["mean", "max", "last"]
"""A phrase's map: the mean or the highest of its words' shares at each place, or the last word's alone."""

POOLINGS: Mapping[Pooling, Callable[[Sequence[np.ndarray]], np.ndarray]] = {
    "mean": lambda maps: np.mean(maps, axis=0),
    "max": lambda maps: np.max(maps, axis=0),
    "last": lambda maps: maps[-1],
}


@dataclass
class Pointed:
    """What one method gave, a row for each phrase: whether it hit, and the share of its map inside, 0..1.

    `photos` numbers the photo of each phrase, `areas` is the share of it that the phrase's boxes cover; `seconds`
    has what the maps of each text took.
    """

    hits: dict[Pooling, list[bool]] = field(default_factory=lambda: {name: [] for name in POOLINGS})
    inside: dict[Pooling, list[float]] = field(
        default_factory=lambda: {name: [] for name in POOLINGS}
    )
    photos: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def rate(
        self, of: Literal["hits", "inside"], pooling: Pooling = "mean", small: bool = False
    ) -> Metric:
        """The mean over phrases, of all or of those of small things, for intervals over photos."""
        values = np.asarray(getattr(self, of)[pooling], dtype=float)
        kept = np.asarray(self.areas) < SMALL if small else np.full(len(values), True)
        return over_photos(values[kept], np.asarray(self.photos)[kept])


def over_photos(values: np.ndarray, photos: np.ndarray) -> Metric:
    """The mean of values, whose resamples draw whole photos: those of one photo are no independent trials.

    Raises ValueError where there is none.
    """
    _, numbers = np.unique(photos, return_inverse=True)
    rows = np.stack([np.bincount(numbers, values), np.bincount(numbers)], axis=1)  # (photos, 2)
    return Metric(rows, lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()))


def point(
    captioner: Captioner,
    examples: Iterable[Example],
    explainers: Mapping[str, Explainer],
    report: Report,
) -> dict[str, Pointed]:
    """Each method's maps of the examples' texts, which are typed in, against the places of the named words.

    Words that the decoder has no room for are left out, as are images that cannot be read, which go into `report`.
    Raises DataError where nothing is left.
    """
    pointed = {name: Pointed() for name in explainers}
    room = captioner.model.config.decoder.max_length
    for number, image, own in encoded(captioner, examples, report):
        for example in own:
            prompt = len(captioner.prompt(example.question).ids)
            ids = text_ids(captioner.tokenizer, example.text)[: room - prompt]
            words = [word.text for word in captioner.tokenizer.words(ids)]
            named = [
                (word_positions(captioner.tokenizer, n.words, words), n.place)
                for n in example.named
            ]
            named = [(positions, place) for positions, place in named if positions]
            if not named:
                continue
            for name, explain in explainers.items():
                began = time.perf_counter()
                maps = [
                    m / m.sum() if m.any() else np.full_like(m, 1 / m.size)
                    for m in explain(image, ids, example.question)
                ]
                synchronise(captioner.model.device)
                pointed[name].seconds.append(time.perf_counter() - began)
                for positions, place in named:
                    _judge(pointed[name], [maps[i] for i in positions], place, seen(image), number)
    if not any(p.photos for p in pointed.values()):
        raise DataError("no text has words that are known to be in its photo")
    return pointed


def _judge(pointed: Pointed, maps: list[np.ndarray], place: Place, box: Box, photo: int) -> None:
    coverage = place.coverage(maps[0].shape, box)
    for pooling, pool in POOLINGS.items():
        pooled = pool(maps)
        pointed.hits[pooling].append(place.holds(*peak(pooled, box)))
        pointed.inside[pooling].append(float((pooled * coverage).sum() / pooled.sum()))
    pointed.photos.append(photo)
    pointed.areas.append(place.area)


def peak(weights: np.ndarray, seen: Box = (0.0, 0.0, 1.0, 1.0)) -> tuple[float, float]:
    """The centre of the cell of the highest weight, in shares of the photo's sides; see `seen`."""
    row, column = divmod(int(weights.argmax()), weights.shape[1])
    left, top, right, bottom = seen
    x = left + (right - left) * (column + 0.5) / weights.shape[1]
    return x, top + (bottom - top) * (row + 0.5) / weights.shape[0]


def seen(image: EncodedImage) -> Box:
    """The part of the photo that the patches divide, in shares of its sides."""
    frame = image.frame
    left, top, right, bottom = frame.box
    return left / frame.width, top / frame.height, right / frame.width, bottom / frame.height


def encoded(
    captioner: Captioner, examples: Iterable[Example], report: Report
) -> Iterator[tuple[int, EncodedImage, list[Example]]]:
    """Each photo's number, the photo encoded once, and its examples. What cannot be read goes into `report`."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.image.key, []).append(example)
    waiting = list(enumerate(groups.values()))
    for start in range(0, len(waiting), BATCH):
        photos, kept = [], []
        for number, own in waiting[start : start + BATCH]:
            ref = own[0].image
            try:
                photos.append(captioner.read(ref.read()))
            except (ImageError, DataError) as error:
                report.skip(Broken(str(ref), str(error)))
                continue
            report.good += 1
            kept.append((number, own))
        for image, (number, own) in zip(captioner.encode_all(photos), kept):
            yield number, image, own
    report.check()


def first_photos(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """The examples of the first `limit` photos."""
    keys = list(dict.fromkeys(example.image.key for example in examples))[:limit]
    kept = set(keys)
    return [example for example in examples if example.image.key in kept]


def caption_seconds(captioner: Captioner, examples: Sequence[Example], photos: int = 24) -> float:
    """What a caption of one photo takes, its encoding and the search: the median over some photos."""
    refs = list({example.image.key: example.image for example in examples}.values())[:photos]
    seconds = []
    for ref in refs:
        photo = captioner.read(ref.read())
        began = time.perf_counter()
        captioner.encode(photo).caption()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
