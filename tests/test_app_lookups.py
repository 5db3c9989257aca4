"""What the page asks about what was said, and what it says of a text of one's own and of a part of the photo."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_app_page import DOG, described, texts

from vlm.app.entries import check, part_of, what_if
from vlm.app.lookups import METHODS, look_up
from vlm.app.page import Page as Tab
from vlm.app.page import answer
from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.explain.method import MethodError
from vlm.explain.regions import RegionError


@pytest.fixture(scope="module")
def engine(tiny: Captioner) -> Iterator[Engine]:
    with Engine(tiny) as engine:
        yield engine


@pytest.fixture
def tab(engine: Engine) -> Tab:
    return described(engine, DOG)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_map_for_every_word(engine: Engine, tab: Tab, method: str) -> None:
    *_, view = answer(engine, tab, "is there a dog?", 2)
    said = view["answers"][0]["text"]
    found = look_up(engine, tab, {"what": "maps", "id": said["id"], "method": method})
    expected = tab.texts[said["id"]].maps(method=method)
    maps = found["question"] + found["words"]
    assert len(maps) == len(expected) == len(said["question"]) + len(said["words"])
    for shown, word_map in zip(maps, expected):
        weights = word_map.weights if word_map.mass else word_map.weights * 0
        np.testing.assert_allclose(shown, weights, atol=1e-5)


def test_one_head_is_looked_at_alone(engine: Engine, tab: Tab) -> None:
    asked = {"what": "maps", "id": 0, "method": "attention", "layer": 1, "head": 2}
    shown = look_up(engine, tab, asked)["words"]
    expected = tab.texts[0].maps(layer=1, head=2, method="attention")
    np.testing.assert_allclose(shown, [m.weights for m in expected], atol=1e-5)


def test_why_not_another_word_is_the_contrast_with_it(engine: Engine, tab: Tab) -> None:
    asked = {"what": "maps", "id": 0, "method": "contrast", "foil": "cat"}
    shown = look_up(engine, tab, asked)["words"][0]
    expected = tab.texts[0].maps(method="contrast", foil="cat")[0]
    np.testing.assert_allclose(shown, expected.weights * (expected.mass > 0), atol=1e-5)


def test_a_words_alternatives_and_what_a_head_did(engine: Engine, tab: Tab) -> None:
    others = look_up(engine, tab, {"what": "instead", "id": 0, "word": 1})["words"]
    assert [o["text"] for o in others] == [text for text, _ in tab.texts[0].instead(1)]
    seen = look_up(engine, tab, {"what": "inside", "id": 0, "word": 0, "layer": 0, "head": 1})
    scores = torch.tensor(seen["scores"]).flatten()
    torch.testing.assert_close(
        scores.softmax(0), torch.tensor(seen["weights"]).flatten(), atol=1e-4, rtol=1e-3
    )
    assert len(seen["added"]) == len(seen["weights"])


def test_what_cannot_be_looked_up_is_a_users_error(engine: Engine, tab: Tab) -> None:
    with pytest.raises(MethodError, match="no word"):
        look_up(engine, tab, {"what": "instead", "id": 0, "word": 99})
    with pytest.raises(MethodError, match="layer must be"):
        look_up(engine, tab, {"what": "inside", "id": 0, "word": 0, "layer": 9, "head": 0})


def test_what_is_here_is_the_caption_of_those_cells(engine: Engine, tab: Tab) -> None:
    assert tab.image
    frame = tab.image.frame
    found = look_up(engine, tab, {"what": "here", "cells": [0, 1, 3, 4]})  # of 3 x 3
    left, top, right, bottom = frame.box
    box = (left, top, left + (right - left) * 2 / 3, top + (bottom - top) * 2 / 3)
    assert found["text"] == tab.image.region(box).caption().text


@pytest.mark.parametrize("question", [None, "is there a dog?"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_part_hidden_or_kept_gives_both_texts(
    engine: Engine, tab: Tab, question: str | None, keep: bool
) -> None:
    if question:
        list(answer(engine, tab, question, 2))
    number = len(tab.texts) - 1
    before = tab.texts[number]
    *_, view = what_if(engine, tab, number, [0, 3, 6], keep, 3)
    entry = view["answers"][-1]
    assert tab.image
    left, top, right, bottom = tab.image.frame.box
    box = (left, top, left + (right - left) / 3, bottom)
    expected = before.what_if(only=box) if keep else before.what_if(hide=box)
    assert entry["before"]["text"] == before.text
    assert entry["text"]["text"] == expected.answer.text
    assert entry["lost"] == pytest.approx(expected.lost, abs=1e-3)
    hidden = np.array(entry["text"]["words"][0]["map"])[:, 1:] if keep else None
    if hidden is not None:
        assert hidden.max() == 0


@pytest.mark.parametrize(
    ("cells", "keep", "said"),
    [
        ([], False, "no part"),
        (range(9), False, "nothing"),
        (range(9), True, "no part"),
        ([], True, "nothing"),
    ],
)
def test_a_part_that_is_none_or_all_is_told(
    engine: Engine, tab: Tab, cells: range | list[int], keep: bool, said: str
) -> None:
    assert tab.image
    with pytest.raises(RegionError, match=said):
        part_of(tab.image, list(cells), keep, None)
    *_, view = what_if(engine, tab, 0, list(cells), keep, 2)
    assert said in view["message"].lower()
    assert view["answers"] == []


def test_slots_that_are_no_patches_are_hidden_in_the_photo(tab: Tab, tiny: Captioner) -> None:
    """A model that pools its patches sees the photo anew, with the cells painted over."""
    assert tab.image
    assert tab.photo
    memory = replace(tab.image.memory, lift=torch.eye(9)[None])
    pooled = replace(tab.image, memory=memory)
    part = part_of(pooled, [0, 1, 2], False, tab.photo["file"]["path"])
    pixels = np.asarray(part.picture)
    painted = pixels[: part.picture.height // 3 - 1].astype(int)
    assert np.abs(painted - painted[0, 0]).max() <= 2  # made smaller since, so that edges are soft
    assert pixels[part.picture.height // 2 :].std() > 10


@pytest.mark.parametrize("question", [None, "is there a dog?"])
def test_a_text_of_ones_own_is_weighed(engine: Engine, tab: Tab, question: str | None) -> None:
    *_, view = check(engine, tab, "A dog,  in the park.", question, 2)
    (entry,) = view["answers"]
    assert tab.image
    expected = tab.image.explain("a dog, in the park", question)
    assert texts(entry["text"]["words"]) == [word.text for word in expected.words]
    for word, own, nats in zip(entry["text"]["words"], expected.words, expected.image_effect.words):
        assert word["probability"] == pytest.approx(math.exp(own.logprob), abs=1e-4)
        assert word["effect"] == pytest.approx(nats, abs=1e-3)
        assert word["map"]


@pytest.mark.parametrize(("text", "said"), [("  ", "empty"), ("dog " * 200, "too long")])
def test_a_text_that_cannot_be_weighed_is_told(
    engine: Engine, tab: Tab, text: str, said: str
) -> None:
    *_, view = check(engine, tab, text, None, 2)
    assert said in view["message"]
    assert view["answers"] == []


def test_nothing_is_done_without_a_photo(engine: Engine) -> None:
    *_, view = check(engine, Tab(), "a dog", None, 1)
    assert view["message"] == "no photo"


def test_every_language_has_every_text_with_the_same_gaps() -> None:
    import json
    import re

    file = Path(__file__).parent.parent / "vlm" / "app" / "strings.json"
    strings = json.loads(file.read_text())
    gaps = {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in strings["en"].items()}
    assert {"en", "de", "fr"} <= strings.keys()
    for texts_of_one in strings.values():
        assert {k: sorted(re.findall(r"\{\w+\}", t)) for k, t in texts_of_one.items()} == gaps
