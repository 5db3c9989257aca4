"""What the model says of a part of the photo, and without it."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vlm.explain.regions import RegionError, filled, slots_shown
from vlm.images import Frame, Preprocess
from vlm.model.memory import Memory, Segment, image_memory, word_memory

LEFT = (0, 0, 45, 60)  # of 90 x 60 pixels, on a grid of 3 x 3


@pytest.fixture(scope="module")
def image(tiny):
    generator = torch.Generator().manual_seed(0)
    return tiny.encode(torch.randint(256, (60, 90, 3), generator=generator).byte().numpy())


@pytest.mark.parametrize(
    ("box", "fit", "expected"),
    [
        ((0, 0, 90, 60), "squash", ["xxx", "xxx", "xxx"]),
        ((0, 0, 46, 21), "squash", ["xx.", "...", "..."]),
        ((0, 0, 45, 60), "squash", ["x..", "x..", "x.."]),  # a centre on the edge is beyond it
        ((-9, 50, 999, 999), "squash", ["...", "...", "xxx"]),
        ((16, 0, 26, 60), "crop", ["x..", "x..", "x.."]),  # the model saw 15 to 75
        ((0, 0, 15, 60), "crop", ["...", "...", "..."]),
    ],
)
def test_a_region_is_the_patches_whose_centre_it_holds(box, fit, expected):
    frame = Preprocess((96, 96), (0.5,) * 3, (0.5,) * 3, fit=fit).frame(90, 60)
    assert frame.cells(box, (3, 3)).tolist() == [[c == "x" for c in row] for row in expected]


def test_what_tells_of_the_whole_photo_is_hidden_with_a_part():
    frame = Frame(90, 60, (0, 0, 90, 60))
    patches = image_memory(torch.zeros(1, 10, 4), (3, 3))  # a class token in front
    tags = word_memory(torch.zeros(1, 1, 4), "tags", [["dog"]])
    memory = Memory.concat([patches, tags, word_memory(torch.zeros(1, 1, 4), "page 3", [["a"]])])
    inside, outside = (slots_shown(memory, frame, LEFT, side)[0].int() for side in (True, False))
    assert inside.tolist() == [0, *[1, 0, 0] * 3, 0, 1]
    assert outside.tolist() == [0, *[0, 1, 1] * 3, 0, 1]


@torch.inference_mode()
@pytest.mark.parametrize("question", [None, "is there a dog?"])
def test_a_region_is_said_as_if_there_were_nothing_else(tiny, image, question):
    """In the memory: as a memory of those patches alone."""
    kept = [0, 3, 6]
    tokens = image.memory.tokens[:, kept]
    memory = Memory(tokens, (Segment("image", 0, 3, (3, 1)),))
    alone = replace(image, memory=memory, projected=tiny.model.project(memory))
    part = image.region(LEFT)
    for one in (part, part.region((0, 0, 90, 60))):  # a region of a region
        said = one.caption() if question is None else one.ask(question)
        expected = alone.caption() if question is None else alone.ask(question)
        assert said.text == expected.text
        assert said.score == pytest.approx(expected.score, abs=1e-4)
    for word in part.explain("a dog", question).maps():
        assert word.weights[:, 1:].sum() == 0
        assert word.weights.sum().item() == pytest.approx(1, abs=1e-5)
    for word in part.explain("a dog", question).maps(method="occlusion"):
        assert word.mass == 0 or word.weights[:, 1:].sum() == 0


def test_hiding_changes_what_is_said_and_how_likely_it_was(image):
    answer = image.caption()
    there = answer.what_if(hide=LEFT)
    expected = image.without(LEFT).caption()
    assert there.answer.text == expected.text
    assert there.changed == (expected.text != answer.text)
    assert there.before is answer
    assert there.same.text == answer.text
    assert there.lost == pytest.approx(sum(answer.logprobs) - sum(there.same.logprobs))
    assert abs(there.lost) > 1e-3
    record = there.to_dict()
    assert record["same"]["caption"] == record["before"]["caption"] == answer.text
    other = answer.what_if(only=LEFT, beams=1)
    assert other.answer.text == image.region(LEFT).caption(beams=1).text
    asked = image.ask("is there a dog?").what_if(hide=LEFT)
    assert asked.answer.question == "is there a dog?"


def test_nothing_hidden_loses_nothing(image):
    there = image.caption().what_if(only=(0, 0, 90, 60))
    assert not there.changed
    assert there.lost == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("inside", [True, False])
def test_pixels_are_painted_over_as_the_encoder_sees_nothing(inside):
    random = np.random.default_rng(0).integers(256, size=(60, 90, 3), dtype=np.uint8)
    preprocess = Preprocess((60, 90), (0.2, 0.4, 0.6), (0.5,) * 3)
    painted = np.asarray(
        filled(
            Image.fromarray(random), preprocess.frame(90, 60), preprocess, (-5, 10, 30, 50), inside
        )
    )
    region = np.zeros((60, 90), dtype=bool)
    region[10:50, :30] = True
    kept = region if inside else ~region
    assert (painted[kept] == random[kept]).all()
    assert (painted[~kept] == (51, 102, 153)).all()


def test_pixels_are_encoded_anew(tiny, image):
    there = image.caption().what_if(hide=LEFT, pixels=True)
    picture = image.picture.copy()
    picture.paste(tuple(round(255 * mean) for mean in tiny.preprocess.mean), LEFT)
    assert there.answer.image.picture == picture
    assert there.answer.text == tiny.encode(picture).caption().text


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ((0, 0, 10), "left, top, right, bottom"),
        (("a", 0, 10, 10), "left, top, right, bottom"),
        ((10, 0, 10, 20), "less than its right"),
        ((0, 30, 10, 20), "less than its right"),
        ((0, 0, float("nan"), 20), "less than its right"),
        ((90, 0, 99, 60), "beside the photo of 90 x 60"),
        ((0, 0, 2, 2), "no patch's centre"),
    ],
)
def test_what_is_no_region_is_told(image, box, told):
    for look in (image.region, image.without):
        with pytest.raises(RegionError, match=told):
            look(box)


def test_what_cannot_be_hidden_is_told(image):
    with pytest.raises(RegionError, match="nothing of the photo would be left"):
        image.without((0, 0, 90, 60))
    with pytest.raises(RegionError, match="hidden in the memory already"):
        image.region(LEFT).without((0, 0, 10, 10), pixels=True)
    pooled = replace(image.memory, lift=torch.eye(9)[None])
    with pytest.raises(RegionError, match="pixels=True"):
        replace(image, memory=pooled).region(LEFT)
    answer = image.caption()
    for choice in ({}, {"hide": LEFT, "only": LEFT}):
        with pytest.raises(ValueError, match="one region"):
            answer.what_if(**choice)
    with pytest.raises(ValueError, match="without its image"):
        pickle.loads(pickle.dumps(answer)).what_if(hide=LEFT)
    with pytest.raises(ValueError, match="the whole photo"):
        image.region(LEFT).caption().maps(method="pixels")
