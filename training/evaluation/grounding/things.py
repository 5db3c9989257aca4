"""Texts about pictures that were made, so that where their things are is known."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from ...data.records import ImageRef, Record
from .places import Example, Named, Place

UNLIKE = 30  # of 765, by which a pixel's colour differs from the ground's


def shapes_of_easy_vqa(records: Iterable[Record]) -> list[Example]:
    """Questions of easy-VQA whose answer is the shape or its colour, with where the shape is by its pixels."""
    named = [r for r in records if r.question is not None and r.texts[0] not in ("yes", "no")]
    return [
        Example(r.image, r.texts[0], (Named(r.texts[0], unlike_ground(r.image)),), r.question)
        for r in named
    ]


def unlike_ground(image: ImageRef) -> Place:
    """The box of what has another colour than the picture's first pixel."""
    with Image.open(io.BytesIO(image.read())) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - pixels[0, 0]).sum(axis=2) > UNLIKE)
    height, width = pixels.shape[:2]
    right, bottom = (columns.max() + 1) / width, (rows.max() + 1) / height
    return Place(((columns.min() / width, rows.min() / height, right, bottom),))


def things_of_scenes(records: Iterable[Record]) -> list[Example]:
    """The captions of records with boxes, whose labels are words of the caption."""
    examples = []
    for record in records:
        with Image.open(io.BytesIO(record.image.read())) as opened:
            width, height = opened.size
        named = tuple(
            Named(
                box.label,
                Place(
                    ((box.left / width, box.top / height, box.right / width, box.bottom / height),)
                ),
            )
            for box in record.boxes
        )
        examples.append(Example(record.image, record.texts[0], named))
    return examples
