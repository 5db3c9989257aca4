"""Boxes of phrases in photos of Flickr8k, from Flickr30k Entities (Plummer et al. 2015)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ...data.records import DataError, Record
from .places import Example, Place, captions_with_phrases

LONGER = 500  # pixels of an original photo's longer side
TOUCHES = 498  # of a box that reaches to the end of it
SHORTER = 330  # what the other side has at least, in nearly all photos

Pixels = tuple[float, float, float, float]


def read_boxes(path: str | Path) -> dict[str, dict[str, list[Pixels]]]:
    """Boxes `(left, top, right, bottom)` in pixels of the original, by photo and phrase.

    The file has `name, phrase, x1, y1, x2, y2` between tabs, a box a line. Raises DataError for any other.
    """
    boxes: dict[str, dict[str, list[Pixels]]] = defaultdict(lambda: defaultdict(list))
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the boxes {path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            name, phrase, *corners = line.split("\t")
            left, top, right, bottom = map(float, corners)
        except ValueError:
            raise DataError(
                f"{path}, line {number}: it is not name, phrase and four numbers between tabs"
            ) from None
        boxes[name][phrase].append((left - 1, top - 1, right, bottom))  # pixels count from 1
    return boxes


def original_size(boxes: list[Pixels]) -> tuple[float, float] | None:
    """The width and height of the photo that holds the boxes, where they tell.

    The longer side has 500 pixels; a box that ends there tells which it is, and the farthest end in the other
    direction tells the shorter side where it is long enough to be one. None where the boxes leave it open.
    """
    right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
    if max(right, bottom) < TOUCHES or min(right, bottom) < SHORTER:
        return None
    return (LONGER, bottom) if right >= bottom else (right, LONGER)


def read_entities(path: str | Path, records: Sequence[Record], once: bool = True) -> list[Example]:
    """The captions of `records` with their phrases' places, for the photos whose original size the boxes tell.

    `once` is that of `captions_with_phrases`. Raises DataError where there is none.
    """
    phrases = {}
    for name, by_phrase in read_boxes(path).items():
        size = original_size([box for boxes in by_phrase.values() for box in boxes])
        if size is not None:
            phrases[name] = {p: _shares(boxes, size) for p, boxes in by_phrase.items()}
    return captions_with_phrases([(r.image, r.texts) for r in records], phrases, once)


def _shares(boxes: list[Pixels], size: tuple[float, float]) -> Place:
    width, height = size
    return Place(
        tuple(
            (left / width, top / height, min(1, right / width), min(1, bottom / height))
            for left, top, right, bottom in boxes
        )
    )
