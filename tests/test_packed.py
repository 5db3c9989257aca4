from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import vlm
from vlm.captioner import Captioner
from vlm.packed import (
    Int8Embedding,
    Int8Linear,
    PackedLinear,
    PackingError,
    can_pack,
    pack,
    quantise,
)
from vlm.vision import VisionEncoder, folded

pytestmark = pytest.mark.skipif(not can_pack(), reason="no packed layouts on this processor")


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def packed(tiny: Captioner) -> Captioner:
    model = copy.deepcopy(tiny.model)
    pack(model)
    return Captioner(model, tiny.tokenizer)


@pytest.mark.parametrize("shape", [(1, 24), (3, 1, 24), (2, 50, 24)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_is_the_layer(shape, bias):
    linear = nn.Linear(24, 40, bias=bias)
    x = torch.randn(shape)
    torch.testing.assert_close(PackedLinear(linear.weight, linear.bias)(x), linear(x))
    for activation in (nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU()):
        expected = activation(linear(x))
        torch.testing.assert_close(
            PackedLinear(linear.weight, linear.bias, activation)(x), expected, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_int8_is_exact_on_what_it_can_hold(bias):
    linear = nn.Linear(64, 32, bias=bias)
    linear.weight.copy_(torch.randint(-127, 128, (32, 64)) / 127)
    linear.weight[:, 0] = 1.0
    x = torch.randint(-127, 128, (3, 5, 64)).float()
    x[..., 0] = 127
    torch.testing.assert_close(
        Int8Linear(linear.weight, linear.bias)(x), linear(x), atol=1e-3, rtol=1e-5
    )


@torch.inference_mode()
def test_int8_errs_by_less_than_two_hundredths():
    torch.manual_seed(0)
    linear = nn.Linear(768, 512)
    x = torch.randn(4, 768)
    expected = linear(x)
    assert (Int8Linear(linear.weight, linear.bias)(x) - expected).std() < 0.02 * expected.std()


@torch.inference_mode()
def test_an_int8_row_does_not_depend_on_the_rows_beside_it():
    layer = Int8Linear(torch.randn(32, 64), torch.randn(32))
    rows = torch.randn(9, 64) * torch.logspace(-3, 3, 9)[:, None]
    rows[4] = 0
    one_by_one = torch.cat([layer(row[None]) for row in rows])
    torch.testing.assert_close(layer(rows), one_by_one)
    assert torch.isfinite(one_by_one).all()


def test_quantised_rows_are_within_half_a_step():
    weight = torch.randn(10, 30)
    weight[3] = 0
    rows, scale = quantise(weight)
    assert ((rows * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()
    ids = torch.tensor([[1, 3], [9, 1]])
    embedding = nn.Embedding(10, 30, _weight=weight)
    difference = (Int8Embedding(weight)(ids) - embedding(ids)).abs()
    assert (difference <= scale[ids][..., None] / 2 + 1e-7).all()


def test_a_packed_model_writes_and_explains_the_same(tiny, packed, photo):
    plain, fast = (model.encode(photo) for model in (tiny, packed))
    torch.testing.assert_close(fast.memory.tokens, plain.memory.tokens, atol=1e-4, rtol=1e-4)
    for options in ({"beams": 1}, {"beams": 3}, {"sample": True, "seed": 1}):
        expected, answer = plain.caption(**options), fast.caption(**options)
        assert answer.text == expected.text
        assert answer.score == pytest.approx(expected.score, abs=1e-4)
    for ours, theirs in zip(answer.maps(), expected.maps(), strict=True):
        assert abs(ours.weights - theirs.weights).max() < 1e-4
    assert not any(isinstance(module, nn.Linear) for module in packed.model.decoder.modules())


def test_int8_answers_are_the_same_alone_and_in_a_batch(tiny_checkpoint, photo):
    model = vlm.load(tiny_checkpoint, int8=True)
    questions = ["what is it?", "how many dogs are on the grass?", "why?"]
    together = model.encode(photo).ask_all(questions)
    for question, answer in zip(questions, together, strict=True):
        alone = model.encode(photo).ask(question)
        assert alone.text == answer.text
        assert alone.confidence == pytest.approx(answer.confidence, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "all_packed"),
    [("test_vit3", True), ("swin_tiny_patch4_window7_224", True), ("convnext_atto", True),
     ("beit_base_patch16_224", False)],
)  # fmt: skip
@torch.inference_mode()
def test_every_encoder_gives_the_same_patches(name, all_packed, tiny):
    size = (224, 224) if "224" in name else (64, 64)
    config = replace(tiny.model.config.vision, name=name)
    config = replace(config, preprocess=replace(config.preprocess, size=size))
    model = copy.deepcopy(tiny.model)
    model.vision = folded(VisionEncoder(config).eval())
    model.adapter = nn.Identity()
    expected = model.vision
    pack(model)
    pixels = torch.randn(2, 3, *size)
    torch.testing.assert_close(model.vision(pixels)[0], expected(pixels)[0], atol=1e-3, rtol=1e-3)
    plain = [module for module in model.vision.modules() if isinstance(module, nn.Linear)]
    assert (not plain) == all_packed


def test_int8_is_refused_where_it_is_not_to_be_had(tiny_checkpoint):
    with pytest.raises(PackingError, match="int8 weights are for the CPU, not for cuda"):
        vlm.load(tiny_checkpoint, device="cuda", int8=True)
