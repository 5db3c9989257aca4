"""Two models or settings on one photo."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from test_app_page import DOG, described, texts

from vlm.app.compare import compare
from vlm.app.page import Page as Tab
from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.options import OptionError
from vlm.prompts import QuestionError


@pytest.fixture(scope="module")
def engines(tiny: Captioner) -> Iterator[dict[str, Engine]]:
    """The app's own model, and one that looks at a square in the middle and writes captions alone."""
    model = copy.copy(tiny.model)
    model.config = replace(tiny.model.config, tasks=("caption",))
    other = Captioner(model, tiny.tokenizer)
    other.preprocess = replace(tiny.preprocess, fit="crop")
    with Engine(tiny) as own, Engine(other) as second:
        yield {"": own, "square": second}


@pytest.fixture(scope="module")
def tab(engines: dict[str, Engine]) -> Tab:
    return described(engines[""], DOG)


def side(model: str = "", beams: int = 3, method: str = "attention") -> dict[str, object]:
    return {"model": model, "beams": beams, "method": method}


@pytest.mark.parametrize("question", [None, "is there a dog?"])
def test_each_side_says_what_its_settings_say_alone(
    engines: dict[str, Engine], tab: Tab, question: str | None
) -> None:
    asked = {"sides": [side(), side(beams=1, method="value")], "question": question}
    first, second = compare(engines, tab, asked)["sides"]
    assert tab.image
    for shown, beams, method in ((first, 3, "attention"), (second, 1, "value")):
        image = tab.image
        expected = (
            image.caption(beams=beams) if question is None else image.ask(question, beams=beams)
        )
        assert shown["text"]["text"] == expected.text
        maps = [word["map"] for word in shown["text"]["question"] + shown["text"]["words"]]
        np.testing.assert_allclose(
            maps, [m.weights for m in expected.maps(method=method)], atol=1e-5
        )


def test_another_model_sees_the_photo_in_its_own_frame(
    engines: dict[str, Engine], tab: Tab
) -> None:
    own, other = compare(engines, tab, {"sides": [side(), side("square")]})["sides"]
    image = engines["square"].captioner.encode(DOG)
    assert texts(other["text"]["words"]) == [word.text for word in image.caption().words]
    assert None not in json.loads(own["across"])
    # The photo's left edge, which a square in its middle leaves out.
    assert json.loads(other["across"])[0] is None


def test_what_cannot_be_compared_is_a_users_error(engines: dict[str, Engine], tab: Tab) -> None:
    with pytest.raises(QuestionError, match="answers no questions"):
        compare(engines, tab, {"sides": [side(), side("square")], "question": "is there a dog?"})
    with pytest.raises(OptionError, match="beams"):
        compare(engines, tab, {"sides": [side(beams=0), side()]})
