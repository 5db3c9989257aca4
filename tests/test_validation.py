"""Scores on dev: a mean over tokens, whatever the batches, and words scored as the metrics define."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from small_runs import draw_photos, small_recipe

from training.data.records import ImageRef, Record
from training.loop.examples import examples
from training.loop.inputs import Pixels
from training.loop.validation import Dev
from training.recipe.recipe import Augment, Source
from training.recipe.sources import Group, read_data

if TYPE_CHECKING:
    from vlm.captioner import Captioner


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    """Images with captions of different lengths and a question."""
    folder = draw_photos(tmp_path_factory.mktemp("photos"), 30)
    groups = read_data(small_recipe(folder), folder).all_train[:7]
    asked = Record(groups[2].image, ("yes", "no", "yes"), "is there a dog in the picture?")
    groups[2] = Group(groups[2].image, (*groups[2].records, asked), groups[2].source)
    return groups


def dev(tiny: Captioner, groups: list[Group], batch_images: int) -> Dev:
    inputs = Pixels(tiny.preprocess, Augment(crop=0.5))
    return Dev(groups, inputs, tiny.tokenizer, 48, batch_images, workers=0)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.mark.parametrize("batch_images", [1, 3, 7])
@torch.inference_mode()
def test_the_loss_is_a_mean_over_tokens(
    tiny: Captioner, groups: list[Group], accelerator: Accelerator, batch_images: int
) -> None:
    total, count = 0.0, 0
    for group in groups:
        memory = tiny.encode(group.image.read()).memory
        for row in examples(group, tiny.tokenizer, 48):
            whole = torch.tensor([row.prompt + row.text])
            decoder = tiny.model.decoder
            hidden = decoder(whole[:, :-1], decoder.project(memory)).hidden
            logits = decoder.logits(hidden[0, len(row.prompt) - 1 :])
            total += F.cross_entropy(logits, torch.tensor(row.text), reduction="sum").item()
            count += len(row.text)
    measured = dev(tiny, groups, batch_images).loss(tiny.model, accelerator)
    assert measured == pytest.approx(total / count, rel=1e-4)


def test_words_are_those_that_the_captioner_writes(
    tiny: Captioner, groups: list[Group], accelerator: Accelerator
) -> None:
    predictions = dev(tiny, groups, 3).predict(tiny.model, accelerator, images=100)
    assert len(predictions) == len(groups) + 1
    for prediction in predictions:
        image = tiny.encode(prediction.record.image.read())
        question = prediction.record.question
        if question is None:
            expected = image.caption(beams=1, max_tokens=32)
        else:
            expected = image.ask(question, beams=1, candidates=1, max_tokens=32)
        assert prediction.text == expected.text
        assert prediction.confidence == pytest.approx(expected.confidence, rel=1e-3)


def test_a_question_that_cannot_be_read_counts_as_wrong(
    tiny: Captioner, groups: list[Group], accelerator: Accelerator
) -> None:
    questions = ("what is this? " * 40 + "really?", "is it red?")
    asked = [Record(groups[0].image, ("red",), question) for question in questions]
    group = Group(groups[0].image, tuple(asked), Source("x"))
    predictions = dev(tiny, [group], 3).predict(tiny.model, accelerator, images=10)
    texts = {p.record.question: (p.text, p.problem) for p in predictions}
    assert texts[questions[0]][0] == ""
    assert "too long" in texts[questions[0]][1]
    assert texts[questions[1]][0]
    assert math.isfinite(dev(tiny, [group], 3).loss(tiny.model, accelerator))


def test_a_caption_is_judged_by_all_captions_of_its_image(
    tiny: Captioner, groups: list[Group], accelerator: Accelerator
) -> None:
    ref = groups[0].image
    apart = Group(ref, (Record(ref, ("one",)), Record(ref, ("two", "three"))), Source("x"))
    [prediction] = dev(tiny, [apart], 3).predict(tiny.model, accelerator, images=10)
    assert prediction.record.texts == ("one", "two", "three")


def test_broken_images_are_left_out(
    tiny: Captioner, groups: list[Group], accelerator: Accelerator
) -> None:
    missing = ImageRef("missing.png")
    lost = Group(missing, (Record(missing, ("a dog",)),), Source("x"))
    whole, part = (dev(tiny, g, 3).loss(tiny.model, accelerator) for g in (groups, [*groups, lost]))
    assert part == pytest.approx(whole, rel=1e-4)
    only = dev(tiny, [lost], 3)
    assert only.predict(tiny.model, accelerator, images=10) == []
    assert math.isnan(only.loss(tiny.model, accelerator))
