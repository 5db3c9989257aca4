"""Entries of a page's conversation beside answers: a text of the user's own, and what is said without a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from vlm.answers import Answer
from vlm.app.page import KEPT_SIZE, Page, View, finishing, said, sentence
from vlm.encoded_image import EncodedImage
from vlm.engine import Engine
from vlm.errors import UserError
from vlm.explain.regions import RegionError, filled


def check(engine: Engine, page: Page, text: str, question: str | None, turn: int) -> Iterator[View]:
    """Ask how likely a text of the user's own is as a caption, or as the answer to `question`, and where it looks.

    Raises Superseded or Cancelled as soon as the user asks for something else.
    """
    page.begin(turn, engine)
    yield page.view(turn, busy="reading")
    image = page.image
    if image is None:
        yield page.view(turn, message="no photo")
        return
    with page.at(turn):
        reading = engine.call(page, lambda: image.explain(text, question))
    try:
        typed = reading.result()
    except UserError as error:
        yield page.view(turn, message=sentence(str(error)))
        return
    place = len(page.answers)
    for shown in finishing(engine, page, typed, turn):
        with page.at(turn):
            page.answers[place:] = [{"kind": "check", "text": shown}]
        yield page.view(turn)


def what_if(
    engine: Engine, page: Page, number: int, cells: Sequence[int], keep: bool, turn: int
) -> Iterator[View]:
    """Say a text of the page anew with some cells of the photo's grid hidden, or nothing but them shown.

    Raises Superseded or Cancelled as soon as the user asks for something else.
    """
    page.begin(turn, engine)
    yield page.view(turn, busy="answering")
    before = page.texts[number]
    source = page.photo["file"]["path"] if page.photo else None

    def look() -> tuple[Answer, float]:
        assert before.image is not None
        seen = part_of(before.image, cells, keep, source)
        asked = before.question
        found = seen.caption() if asked is None else seen.ask(asked)
        captioner = engine.captioner
        same = captioner.score_ids(seen, before.ids, asked, before.finished)
        return found, sum(before.logprobs) - sum(same.logprobs)

    with page.at(turn):
        looking = engine.call(page, look)
    try:
        found, lost = looking.result()
    except UserError as error:
        yield page.view(turn, message=sentence(str(error)))
        return
    with page.at(turn):
        mapping = engine.call(page, before.maps)
    first = said(number, before, mapping.result())
    place = len(page.answers)
    entry = {"kind": "what if", "before": first, "cells": list(cells), "keep": keep}
    for shown in finishing(engine, page, found, turn):
        with page.at(turn):
            page.answers[place:] = [{**entry, "text": shown, "lost": round(lost, 3)}]
        yield page.view(turn)


def part_of(
    image: EncodedImage, cells: Sequence[int], keep: bool, source: str | None
) -> EncodedImage:
    """An image with some cells of its grid `(h, w)`, by number, hidden, or nothing but them shown.

    They are hidden in the memory; where a model pools its patches they are painted over in the photo at `source`, which
    is encoded anew. Raises RegionError when nothing is hidden, or nothing left.
    """
    grid = image.memory.image.grid
    assert grid is not None
    chosen = np.zeros(grid[0] * grid[1], dtype=bool)
    chosen[[cell for cell in cells if 0 <= cell < chosen.size]] = True
    hidden = (~chosen if keep else chosen).reshape(grid)
    if not hidden.any():
        raise RegionError("no part of the photo would be hidden; paint over one first")
    if hidden.all():
        raise RegionError("nothing of the photo would be left; choose a smaller part")
    if image.memory.lift is None:
        for box in _runs(hidden, image.frame.box):
            image = image.without(box)
        return image
    assert source is not None
    whole = image.captioner.encode(source)
    picture = whole.picture
    for box in _runs(hidden, whole.frame.box):
        picture = filled(picture, whole.frame, image.captioner.preprocess, box, inside=False)
    return image.captioner.encode(picture).shrunk(KEPT_SIZE).beside(image.passages)


def _runs(hidden: np.ndarray, frame: tuple[float, float, float, float]) -> Iterator[list[float]]:
    """Boxes of pixels that cover the cells `hidden` `(h, w)` of a grid that divides a frame, row by row."""
    left, top, right, bottom = frame
    high, wide = (bottom - top) / hidden.shape[0], (right - left) / hidden.shape[1]
    for y, row in enumerate(hidden):
        for is_hidden, run in groupby(range(len(row)), key=lambda x: bool(row[x])):
            if is_hidden:
                columns = list(run)
                yield [
                    left + columns[0] * wide,
                    top + y * high,
                    left + (columns[-1] + 1) * wide,
                    top + (y + 1) * high,
                ]
