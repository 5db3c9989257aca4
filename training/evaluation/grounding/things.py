"""Texts about pictures that were made, so that where their things are is known."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ...data.records import DataError, ImageRef, Record
from ...data.scenes import SIDE, draw_scene, read_stamps
from ...data.synthetic import FORMS
from .places import Example, Named, Place

LEAST = 3  # things of a scene, so that a map that ignores the word hits a third of them at most
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


def things_of_scenes(folder: str | Path, split: str, count: int) -> list[Example]:
    """Scenes of at least three different things, and captions that name them all.

    They are composed of the stamps in `folder` that have everyday names; split and number alone decide them. Raises
    DataError where `folder` has too few.
    """
    stamps = [s for s in read_stamps(folder) if s.name.split()[-1] in FORMS]
    if len({stamp.phrase for stamp in stamps}) < LEAST:
        raise DataError(f"{folder} has fewer than {LEAST} stamps with everyday names")
    examples: list[Example] = []
    number = 0
    while len(examples) < count:
        scene = draw_scene(stamps, random.Random(f"grounding/{split}/{number}"))
        number += 1
        if len({phrase for phrase, _ in scene.boxes}) == len(scene.boxes) >= LEAST:
            buffer = io.BytesIO()
            scene.image.save(buffer, "PNG")
            image = ImageRef(f"scene {number}", data=buffer.getvalue())
            named = tuple(
                Named(phrase, Place(((left / SIDE, top / SIDE, right / SIDE, bottom / SIDE),)))
                for phrase, (left, top, right, bottom) in scene.boxes
            )
            examples.append(Example(image, scene.captions[0], named))
    return examples
