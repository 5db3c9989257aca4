from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.layers import Mlp
from timm.layers.activations import GELU, GELUTanh
from torch import nn

from vlm.captioner import Captioner
from vlm.model.vision import VisionEncoder, agree, folded
from vlm.runtimes.blocks import ChunkedMlp, DaVitBlock
from vlm.runtimes.layers import FusedConvolution, PackedLinear, can_pack
from vlm.runtimes.packed import packed

pytestmark = pytest.mark.skipif(not can_pack(), reason="no packed layouts on this processor")


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def fast(tiny: Captioner) -> Captioner:
    return Captioner(packed(tiny.model), tiny.tokenizer)


@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (3, 1, 24), (2, 50, 24)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_is_the_layer(shape, bias):
    linear = nn.Linear(24, 40, bias=bias)
    x = torch.randn(shape)
    torch.testing.assert_close(PackedLinear(linear.weight, linear.bias)(x), linear(x))
    for activation in (nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU(), GELU(), GELUTanh()):
        expected = activation(linear(x))
        torch.testing.assert_close(
            PackedLinear(linear.weight, linear.bias, activation)(x), expected, atol=1e-5, rtol=1e-4
        )


@torch.inference_mode()
def test_a_row_over_weights_that_no_cache_holds_is_the_layers(monkeypatch):
    """As each word of a greedy caption is, for models of a common size."""
    monkeypatch.setattr("vlm.runtimes.layers._LARGE", 0)
    linear = nn.Linear(24, 40)
    layer = PackedLinear(linear.weight, linear.bias)
    for shape in ((1, 24), (1, 1, 24), (2, 1, 24), (1, 3, 24)):
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), linear(x))


def test_a_packed_model_writes_and_explains_the_same(tiny, fast, photo):
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    plain, quick = (model.encode(photo) for model in (tiny, fast))
    torch.testing.assert_close(quick.memory.tokens, plain.memory.tokens, atol=1e-4, rtol=1e-4)
    for options in ({"beams": 1}, {"beams": 3}, {"sample": True, "seed": 1}):
        expected, answer = plain.caption(**options), quick.caption(**options)
        assert answer.text == expected.text
        assert answer.score == pytest.approx(expected.score, abs=1e-4)
    for ours, theirs in zip(answer.maps(), expected.maps(), strict=True):
        assert abs(ours.weights - theirs.weights).max() < 1e-4
    assert not any(isinstance(module, nn.Linear) for module in fast.model.decoder.modules())
    after = tiny.model.state_dict()
    assert before.keys() == after.keys(), "a runtime leaves the model as it was"
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@torch.inference_mode()
def test_a_packed_model_can_be_copied(tiny, fast, photo):
    again = Captioner(copy.deepcopy(fast.model), tiny.tokenizer)
    assert again.encode(photo).caption().text == fast.encode(photo).caption().text


@pytest.mark.parametrize(
    ("name", "joined"),
    [("tf_efficientnet_lite0", {"none", "hardtanh"}), ("efficientnet_b0", {"none", "swish"}),
     ("mobilenetv3_small_050", {"none", "hardswish", "relu"}), ("resnet18", {"none"})],
)  # fmt: skip
@torch.inference_mode()
def test_convolutions_and_their_activations_are_one(name, joined, tiny):
    config = replace(tiny.model.config.vision, name=name)
    config = replace(config, preprocess=replace(config.preprocess, size=(128, 96)))
    model = copy.deepcopy(tiny.model)
    model.vision = folded(VisionEncoder(config).eval())
    model.adapter = nn.Identity()
    found = packed(model).vision
    layers = [module for module in found.modules() if isinstance(module, FusedConvolution)]
    assert {layer.activation for layer in layers} == joined
    assert not any(type(module) is nn.Conv2d for module in found.modules())
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for size in ((128, 96), (64, 64)):
            pixels = torch.randn(2, 3, *size)
            expected = model.vision(pixels)[0]
            torch.testing.assert_close(found(pixels)[0], expected, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_a_map_made_of_one_images_patches_is_not_laid_out_anew():
    convolution = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    image = torch.randn(1, 30, 16).transpose(1, 2).view(1, 16, 5, 6)
    assert image.stride(0) == 16, "a stride that is no image's, as torch gives it here"
    found = FusedConvolution(convolution)(image)
    torch.testing.assert_close(found, convolution(image))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(24,), (7, 24), (2, 7, 24), (2, 3, 5, 24)])
@torch.inference_mode()
def test_some_rows_at_a_time_give_what_all_of_them_do(shape):
    mlp = Mlp(24, 48, 40, norm_layer=nn.LayerNorm).eval()
    x = torch.randn(shape)
    torch.testing.assert_close(ChunkedMlp(mlp, rows=3, width=40)(x), mlp(x))


@torch.inference_mode()
def test_mlps_of_few_weights_go_over_some_rows_at_a_time(tiny, monkeypatch):
    config = replace(tiny.model.config.vision, name="test_vit3")
    model, pixels = copy.deepcopy(tiny.model), torch.randn(2, 3, *config.preprocess.size)
    model.vision = VisionEncoder(config).eval()
    for small, expected in ((1 << 30, True), (0, False)):
        monkeypatch.setattr("vlm.runtimes.blocks._SMALL", small)
        monkeypatch.setattr("vlm.runtimes.blocks._HIDDEN", {torch.float32: 1000})
        found = packed(model).vision
        assert any(isinstance(module, ChunkedMlp) for module in found.modules()) == expected
        torch.testing.assert_close(found(pixels)[0], model.vision(pixels)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "all_packed"),
    [("test_vit3", True), ("swin_tiny_patch4_window7_224", True), ("convnext_atto", True),
     ("davit_tiny", True), ("beit_base_patch16_224", False)],
)  # fmt: skip
@torch.inference_mode()
def test_every_encoder_gives_the_same_patches(name, all_packed, tiny):
    size = (224, 224) if "224" in name else (64, 64)
    config = replace(tiny.model.config.vision, name=name)
    config = replace(config, preprocess=replace(config.preprocess, size=size))
    model = copy.deepcopy(tiny.model)
    model.vision = folded(VisionEncoder(config).eval())
    model.adapter = nn.Identity()
    found, pixels = packed(model).vision, torch.randn(2, 3, *size)
    torch.testing.assert_close(found(pixels)[0], model.vision(pixels)[0], atol=1e-3, rtol=1e-3)
    plain = [module for module in found.modules() if isinstance(module, nn.Linear)]
    assert (not plain) == all_packed


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (80, 144)])  # padded, whole and both
@torch.inference_mode()
def test_davits_blocks_add_in_place_what_they_would_add(size, tiny):
    config = replace(tiny.model.config.vision, name="davit_tiny")
    config = replace(config, preprocess=replace(config.preprocess, size=size))
    model, pixels = copy.deepcopy(tiny.model), torch.randn(2, 3, *size)
    model.vision = VisionEncoder(config).eval()
    model.adapter = nn.Identity()
    before = pixels.clone()
    found = packed(model).vision
    assert any(isinstance(module, DaVitBlock) for module in found.modules())
    for images in (pixels, pixels[:1]):
        expected = model.vision(images)[0]
        torch.testing.assert_close(found(images)[0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(pixels, before)


class Fixed(nn.Module):
    """Stands for an encoder that makes the same patches of everything."""

    def __init__(self, config, patches):
        super().__init__()
        self.config, self.patches = config, patches

    def forward(self, pixels):
        return self.patches, (20, 25)


def test_encoders_agree_by_the_size_of_all_patches(tiny):
    """Some of many are near zero, where float32's rounding is more than a part of the number itself."""
    expected = 300 * torch.randn(1, 500, 24)
    expected[0, 0, 0] = 1e-4
    wrong = expected.clone()
    wrong[0, 7] = 0

    def agreed(actual):
        config = tiny.model.config.vision
        return agree(Fixed(config, expected), Fixed(config, actual), 1e-4)

    assert agreed(expected + 0.005 * torch.randn_like(expected))
    assert not agreed(wrong)
    assert not agreed(expected * torch.nan)
