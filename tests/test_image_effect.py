"""What the image did for a text: as much as the text is less likely for one who does not see it."""

from __future__ import annotations

import pickle
from copy import copy

import pytest
import torch

from vlm.captioner import Captioner


@pytest.fixture(scope="module")
def image(tiny):
    generator = torch.Generator().manual_seed(0)
    return tiny.encode(torch.randint(256, (60, 90, 3), generator=generator).byte().numpy())


def without_image(tiny) -> Captioner:
    """The same model with an encoder that sees nothing: all its patches are zeros."""

    class Blind(torch.nn.Module):
        def forward(self, pixels):
            patches, grid = tiny.model.vision(pixels)
            return torch.zeros_like(patches), grid

    model = copy(tiny.model)
    model._modules = {**tiny.model._modules, "vision": Blind()}
    return Captioner(model, tiny.tokenizer)


@pytest.mark.parametrize("question", [None, "is there a dog?"])
def test_it_is_the_difference_to_a_model_that_sees_nothing(tiny, image, question):
    answer = image.explain("a black zebra", question)
    unseen = without_image(tiny).encode(image.picture).explain("a black zebra", question)
    effect = answer.image_effect
    assert effect.blind == "zeros"
    for nats, word, same in zip(effect.words, answer.words, unseen.words, strict=True):
        assert nats == pytest.approx(word.logprob - same.logprob, abs=1e-4)
    expected = (answer.score - unseen.score) * (len(answer.ids) + 1 if question is None else 1)
    assert effect.total == pytest.approx(expected, abs=1e-3)
    assert abs(effect.total) > 0.1


def test_who_sees_nothing_owes_nothing_to_the_image(tiny, image):
    effect = without_image(tiny).encode(image.picture).caption().image_effect
    assert effect.total == pytest.approx(0, abs=1e-4)
    assert effect.words == pytest.approx([0] * len(effect.words), abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"max_tokens": 3}, {"sample": True, "seed": 0}])
def test_words_and_what_ends_a_text_make_the_whole(image, options):
    answer = image.caption(**options)
    record = answer.to_dict()
    assert record["image_effect"] == answer.image_effect.total
    assert record["blind"] == "zeros"
    nats = [word["image_effect"] for word in record["words"]]
    assert nats == list(answer.image_effect.words)
    if not answer.finished:
        assert sum(nats) == pytest.approx(answer.image_effect.total, abs=1e-4)


def test_it_goes_along_where_the_image_does_not(image):
    answer = image.ask("is there a dog?")
    assert (
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(answer)))).image_effect
        == answer.image_effect
    )
