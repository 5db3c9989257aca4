"""Two models or settings on one photo: what each says, with its maps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vlm.app.page import HEAT_SIZE, KEPT_SIZE, Page, View, fitted, said, steps
from vlm.encoded_image import EncodedImage
from vlm.engine import Engine


def compare(engines: Mapping[str, Engine], page: Page, asked: Mapping[str, Any]) -> View:
    """Caption the page's photo by each of `asked["sides"]`, or answer `asked["question"]`.

    A side is `{"model", "beams", "method"}`. Raises UserError where a model has no such task, or an option is wrong.
    """
    assert page.photo is not None
    question = asked.get("question") or None
    jobs = []
    for side in asked["sides"]:
        engine = engines[side["model"]]
        say = partial(_side, engine, page, side, question)
        jobs.append(engine.call((page.key, "compare"), say))
    return {"sides": [job.result() for job in jobs]}


def _side(engine: Engine, page: Page, side: Mapping[str, Any], question: str | None) -> View:
    assert page.photo is not None
    image = _image(engine, page)
    beams = side["beams"]
    answer = image.caption(beams=beams) if question is None else image.ask(question, beams=beams)
    asked = None if question is None else [question]
    engine.traced([answer], engine.captioner.choose(asked, {"beams": beams}))
    frame = image.frame
    down, across = frame.scaled(*fitted(frame.width, frame.height, HEAT_SIZE)).spread(
        image.memory.image.grid or (1, 1)
    )
    return {
        "text": said(0, answer, answer.maps(method=side["method"])),
        "down": steps(down),
        "across": steps(across),
    }


def _image(engine: Engine, page: Page) -> EncodedImage:
    """The page's photo as a model has encoded it; its own model has done so already."""
    image = page.image
    if image is not None and image.captioner is engine.captioner:
        return image
    assert page.photo is not None
    return engine.captioner.encode(Path(page.photo["file"]["path"])).shrunk(KEPT_SIZE)
