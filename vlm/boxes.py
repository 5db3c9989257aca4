"""Boxes that a text names by location tokens (Florence-2, Xiao et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from vlm.images import Frame
from vlm.tokenizer import Tokenizer

BINS = 1000  # places along each side of what the model saw
_LOCATION = re.compile(r"<loc_(\d+)>")


@dataclass(frozen=True)
class Place:
    """What a text says is at a place: its `corners` in pixels of the upright photo.

    Two are the first and the last of a box, four go around a quadrilateral, such as a line of text.
    """

    label: str
    corners: tuple[tuple[float, float], ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box around it, `(left, top, right, bottom)`."""
        across, down = zip(*self.corners)
        return min(across), min(down), max(across), max(down)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "label": self.label,
            "box": list(self.box),
            "corners": [list(c) for c in self.corners],
        }


def places_of(
    tokenizer: Tokenizer, ids: Sequence[int], frame: Frame, corners: int = 2
) -> tuple[Place, ...]:
    """The places that the ids name, each of so many `corners`: a label, and then the locations of one or several.

    What is left over of a place that was cut is dropped. A location is the middle of its bin.
    """
    added = tokenizer.backend.get_added_tokens_decoder()
    bins = {i: int(m[1]) for i, t in added.items() if (m := _LOCATION.fullmatch(t.content))}
    left, top, right, bottom = frame.box
    places, label = [], ""
    for located, run in groupby(ids, key=lambda i: i in bins):
        if not located:
            label = tokenizer.decode(list(run))
            continue
        numbers = [(bins[i] + 0.5) / BINS for i in run]
        points = [
            (left + x * (right - left), top + y * (bottom - top))
            for x, y in zip(numbers[::2], numbers[1::2])
        ]
        for start in range(0, len(points) - corners + 1, corners):
            places.append(Place(label, tuple(points[start : start + corners])))
    return tuple(places)
