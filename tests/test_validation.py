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
from training.loop.validation import Dev, Prediction, score, score_each
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
        for row in examples(group, tiny.tokenizer):
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
        image = tiny.encode(prediction.group.image.read())
        question = prediction.record.question
        if question is None:
            expected = image.caption(beams=1, max_tokens=32)
        else:
            expected = image.ask(question, beams=1, candidates=1, max_tokens=32)
        assert prediction.text == expected.text


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


def prediction(key: str, text: str, *texts: str, question: str | None = None) -> Prediction:
    record = Record(ImageRef(key), texts, question)
    return Prediction(Group(record.image, (record,), Source("x")), record, text)


def test_captions_and_answers_are_scored_apart() -> None:
    predictions = [
        prediction("a", "a brown dog runs on the grass", "a brown dog runs on the grass"),
        prediction("b", "nothing of the kind", "two men play in the park"),
        prediction("c", "Night stand.", "night_stand", question="what is it?"),
        prediction("d", "red", *["red"] * 2, *["blue"] * 8, question="which colour?"),
        prediction("e", "no", "yes", question="is it?"),
    ]
    points = score_each(predictions)
    assert points[0] == pytest.approx(1000)
    assert points[1] == pytest.approx(0)
    assert points[2:] == pytest.approx([100, 60, 0])
    assert score(predictions) == pytest.approx({"CIDEr": 500, "accuracy": 160 / 3})
    assert score([]) == {}
