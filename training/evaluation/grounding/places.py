"""Texts whose words name something of which it is known where in the photo it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vlm.tokenizer import Tokenizer

from ...data.records import DataError, ImageRef

Box = tuple[float, float, float, float]
"""`(left, top, right, bottom)` in shares of the photo's width and height, 0..1."""

FINE = 16  # points a side of a cell, by which the share of it that lies in boxes is counted
SMALL = 0.25  # of the photo's area


@dataclass(frozen=True)
class Place:
    """Where something is: all its boxes, for example those of each person of a group."""

    boxes: tuple[Box, ...]

    def holds(self, x: float, y: float) -> bool:
        """Whether the point, in shares of the photo's sides, is inside a box."""
        return any(
            left <= x <= right and top <= y <= bottom for left, top, right, bottom in self.boxes
        )

    def coverage(self, grid: tuple[int, int], seen: Box = (0.0, 0.0, 1.0, 1.0)) -> np.ndarray:
        """Which share of each cell lies inside, `(h, w)` in 0..1, of a grid that divides `seen` evenly."""
        down, across = grid[0] * FINE, grid[1] * FINE
        y = seen[1] + (seen[3] - seen[1]) * (np.arange(down)[:, None] + 0.5) / down
        x = seen[0] + (seen[2] - seen[0]) * (np.arange(across)[None] + 0.5) / across
        inside = np.zeros((down, across), dtype=bool)
        for left, top, right, bottom in self.boxes:
            inside |= (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
        return inside.reshape(grid[0], FINE, grid[1], FINE).mean(axis=(1, 3))

    @cached_property
    def area(self) -> float:
        """The share of the photo that all boxes together cover."""
        return float(self.coverage((8, 8)).mean())


@dataclass(frozen=True)
class Named:
    """Words of a text, and where what they name is."""

    words: str
    place: Place


@dataclass(frozen=True)
class Example:
    """A caption, or with a `question` an answer, and those of its words whose place is known."""

    image: ImageRef
    text: str
    named: tuple[Named, ...]
    question: str | None = None


def word_positions(tokenizer: Tokenizer, words: str, text: Sequence[str]) -> tuple[int, ...]:
    """Which of a text's words are `words`, in their first occurrence; empty where they do not occur."""
    wanted = spelled(tokenizer, words)
    for start in range(len(text) - len(wanted) + 1):
        if list(text[start : start + len(wanted)]) == wanted:
            return tuple(range(start, start + len(wanted)))
    return ()


def spelled(tokenizer: Tokenizer, words: str) -> list[str]:
    """The words that the model reads or writes for a text."""
    return [word.text for word in tokenizer.words(tokenizer.encode(words))]


def captions_with_phrases(
    captions: Iterable[tuple[ImageRef, Sequence[str]]],
    phrases: Mapping[str, Mapping[str, Place]],
    once: bool = True,
) -> list[Example]:
    """Captions with those of their photo's phrases that they have: each `once`, in the first, or in all that have it.

    `captions` are photos with their captions, `phrases` by the photo's file name. Raises DataError where none has any.
    """
    examples = []
    for image, texts in captions:
        left = dict(phrases.get(image.path.rpartition("/")[2], {}))
        for text in texts:
            found = [phrase for phrase in left if _plain(phrase) in _plain(text)]
            if found:
                examples.append(Example(image, text, tuple(Named(p, left[p]) for p in found)))
            if once:
                left = {phrase: place for phrase, place in left.items() if phrase not in found}
    if not examples:
        raise DataError("none of the photos has a caption with a phrase whose boxes are known")
    return examples


def _plain(text: str) -> str:
    """Lower-case words between single spaces, to look for whole words in."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return f" {' '.join(words)} "
