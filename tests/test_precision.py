"""16 and 8 bits give nearly the same, are chosen where faster, and are refused by name where there are none."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.layers import Mlp
from timm.layers.activations import GELU
from torch import nn
from typer.testing import CliRunner

import vlm
from vlm import loading
from vlm.captioner import Captioner
from vlm.cli.main import app
from vlm.encoded_image import EncodedImage
from vlm.explain.method import MethodError
from vlm.loading import find_precision
from vlm.model.model import VisionLanguageModel
from vlm.model.vision import VisionEncoder, folded
from vlm.options import Precision
from vlm.runtimes import Runtime, TextDecoder, probes
from vlm.runtimes.blocks import ChunkedMlp
from vlm.runtimes.half_attention import HalfAttention, InHeads, at_once, by_heads
from vlm.runtimes.layers import Float16Linear, FusedConvolution, Int8Linear, PackedLinear
from vlm.runtimes.openvino import BackendError
from vlm.runtimes.packed import HalfEncoder, packed, packed_layers
from vlm.runtimes.plan import FLOAT32, Plan, planned
from vlm.runtimes.probes import can_halve, can_take_float16, can_take_int8, fastest

PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)

needs_bf16 = pytest.mark.skipif(not can_halve(), reason="no bfloat16 on this processor")
needs_int8 = pytest.mark.skipif(not can_take_int8(), reason="no layers of 8 bits here")
needs_fp16 = pytest.mark.skipif(not can_take_float16(), reason="no layers of float16 weights here")


def seeing(tiny: Captioner, name: str) -> tuple[VisionLanguageModel, torch.Tensor]:
    """A model with another encoder and no adapter, and pixels of a size that it takes."""
    size = (224, 224) if "224" in name else (64, 64)
    config = replace(tiny.model.config.vision, name=name)
    config = replace(config, preprocess=replace(config.preprocess, size=size))
    model = copy.deepcopy(tiny.model)
    model.vision, model.adapter = folded(VisionEncoder(config).eval()), nn.Identity()
    return model, torch.randn(2, 3, *size)


def assert_nearly_the_same(
    expected: EncodedImage, found: EncodedImage, score: float, weights: float
) -> None:
    """A text's score, relatively, and the weights of its words' maps."""
    texts = [image.explain("a brown dog runs through the grass") for image in (expected, found)]
    assert texts[1].score == pytest.approx(texts[0].score, rel=score)
    for theirs, ours in zip(*(text.maps() for text in texts), strict=True):
        assert abs(ours.weights - theirs.weights).max() < weights


@pytest.fixture
def fast(tiny: Captioner) -> Captioner:
    return Captioner(packed(tiny.model, planned(Precision.bf16)), tiny.tokenizer)


@needs_bf16
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (3, 1, 24), (2, 50, 24)])
@torch.inference_mode()
def test_a_layer_multiplies_rounded_numbers(shape: tuple[int, ...]) -> None:
    linear, x = nn.Linear(24, 40), torch.randn(shape)
    rounded = copy.deepcopy(linear).bfloat16().float()
    found = PackedLinear(linear.weight, linear.bias, dtype=torch.bfloat16)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rounded(x.bfloat16().float()), atol=1e-2, rtol=1e-2)


@needs_bf16
@torch.inference_mode()
def test_a_model_in_bf16_computes_nearly_the_same(tiny: Captioner, fast: Captioner) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    assert isinstance(fast.model, Runtime)
    assert isinstance(fast.model.decoder, TextDecoder)
    plain, quick = tiny.encode(PHOTO), fast.encode(PHOTO)
    assert quick.memory.tokens.dtype == torch.float32
    difference = (quick.memory.tokens - plain.memory.tokens).norm()
    assert 0 < difference < 0.1 * plain.memory.tokens.norm()
    assert_nearly_the_same(plain, quick, score=0.05, weights=0.05)
    after = tiny.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@needs_bf16
@torch.inference_mode()
def test_logits_are_not_in_bf16(tiny: Captioner, fast: Captioner) -> None:
    """So that words that are nearly as likely stay apart."""
    half = torch.bfloat16
    decoder = packed(tiny.model, Plan(half, half, half, half)).decoder
    layers = {n: m for n, m in decoder.named_modules() if isinstance(m, PackedLinear)}
    assert {name for name, layer in layers.items() if layer.dtype == torch.float32} == {"head"}
    assert not any(isinstance(module, nn.Linear) for module in decoder.modules())
    hidden = torch.randn(3, tiny.model.config.decoder.width)
    expected = tiny.model.decoder.logits(hidden)
    torch.testing.assert_close(decoder.logits(hidden), expected)
    difference = fast.model.decoder.logits(hidden) - expected
    assert difference.norm() < 1e-3 * expected.norm(), "bfloat16 rounds away up to 4e-3"


@needs_bf16
@needs_fp16
def test_words_are_in_fp16_where_it_is_faster(
    tiny: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for speed in (1.1, 1.3):
        monkeypatch.setattr(probes, "float16_speed", lambda beside, speed=speed: speed)
        decoder = packed(tiny.model, planned(Precision.bf16)).decoder
        attention = decoder.sublayers[1].body  # the cross-attention
        found[speed] = [type(layer) for layer in (attention.query, attention.key_value)]
    assert found == {
        1.1: [PackedLinear, PackedLinear],
        1.3: [Float16Linear, PackedLinear],  # an image's keys and values are of many rows
    }


@pytest.mark.parametrize("half", [True, False])
def test_a_plan_has_what_the_processor_gains_by(
    monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    monkeypatch.setattr(probes, "half_is_faster", lambda: half)
    monkeypatch.setattr(probes, "can_take_float16", lambda: True)
    monkeypatch.setattr(probes, "float16_speed", lambda beside: 0.9)
    found = {}
    for speed in (0.9, 1.1):
        monkeypatch.setattr(probes, "fused_attention_speed", lambda speed=speed: speed)
        found[speed] = planned(Precision.bf16)
    assert found[0.9] == replace(found[1.1], attend=by_heads)
    assert found[1.1].attend is at_once
    assert found[1.1].head == torch.float16
    narrow = torch.bfloat16 if half else torch.float32
    assert planned(Precision.int8).vision == torch.int8
    assert planned(Precision.int8).narrow == narrow
    assert planned(Precision.int8).words == (torch.bfloat16 if half else torch.float16)
    assert planned(Precision.fp16).vision == planned(Precision.fp16).narrow == torch.float32
    assert planned(Precision.float32) == FLOAT32 == Plan()
    monkeypatch.setattr(probes, "can_take_float16", lambda: False)
    assert planned(Precision.bf16).head == torch.float32


@needs_bf16
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("test_vit3", VisionEncoder),
        ("davit_tiny", VisionEncoder),
        ("convnext_atto", HalfEncoder),
        ("test_efficientnet", HalfEncoder),
        ("beit_base_patch16_224", VisionEncoder),
    ],
)
@torch.inference_mode()
def test_every_encoder_gives_nearly_the_same_patches(
    name: str, kind: type, tiny: Captioner
) -> None:
    model, pixels = seeing(tiny, name)
    found = packed(model, planned(Precision.bf16)).vision
    assert type(found) is kind
    expected, actual = model.vision(pixels), found(pixels)
    assert actual[1] == expected[1]
    assert actual[0].dtype == torch.float32
    assert (actual[0] - expected[0]).norm() < 0.1 * expected[0].norm()


@needs_bf16
@torch.inference_mode()
def test_dense_convolutions_are_in_bf16_and_those_of_single_channels_are_not(
    tiny: Captioner,
) -> None:
    model, _ = seeing(tiny, "davit_tiny")
    found = packed(model, planned(Precision.bf16)).vision
    layers = [module for module in found.modules() if isinstance(module, FusedConvolution)]
    types = {(layer.groups == 1, layer.weight.dtype) for layer in layers}
    assert types == {(True, torch.bfloat16), (False, torch.float32)}


ATTENTIONS = [
    timm.models.vision_transformer.Attention(48, 4, qkv_bias=True),
    timm.models.davit.WindowAttention(48, (7, 7), 4),
    timm.models.davit.ChannelAttention(48, 4, qkv_bias=True),
    timm.models.davit.ChannelAttentionV2(48, 4),
    timm.models.davit.ChannelAttentionV2(48, 4, dynamic_scale=False),
]


@needs_bf16
@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda module: type(module).__name__)
@pytest.mark.parametrize("attend", [at_once, by_heads])
@pytest.mark.parametrize("length", [20, 150])  # fewer places than channels, and more
@torch.inference_mode()
def test_attention_in_bf16_is_timms(
    attention: nn.Module, attend: InHeads, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm.runtimes.half_attention._SCORES", 3 * length**2)  # of eight heads
    half = torch.bfloat16
    holder = nn.ModuleDict({"attention": attention.eval()})
    found = packed_layers(holder, half, Plan(half, half, attend=attend))["attention"]
    assert isinstance(found, HalfAttention)
    x = 3 * torch.randn(2, length, 48)
    expected, actual = attention(x), found(x)
    assert actual.dtype == torch.float32
    assert 0 < (actual - expected).norm() < 0.02 * expected.norm()
    for image in range(2):
        torch.testing.assert_close(found(x[image : image + 1])[0], actual[image])


@needs_bf16
def test_attention_that_does_more_is_left() -> None:
    half = torch.bfloat16
    attention = timm.models.vision_transformer.Attention(
        48, 4, qk_norm=True, norm_layer=nn.LayerNorm
    )
    holder = nn.ModuleDict({"attention": attention})
    found = packed_layers(holder, half, Plan(half, half))["attention"]
    assert type(found) is type(holder["attention"])


@needs_bf16
@pytest.mark.parametrize("small", [0, 1 << 30])
@torch.inference_mode()
def test_what_is_between_an_mlps_layers_is_rounded_once(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, and what comes out is in float32, as when each layer gives float32."""
    monkeypatch.setattr("vlm.runtimes.blocks._SMALL", small)
    monkeypatch.setattr("vlm.runtimes.blocks._HIDDEN", {torch.bfloat16: 7 * 96})
    half = torch.bfloat16
    mlp = Mlp(24, 96, 40, act_layer=GELU).eval()
    holder = nn.ModuleDict({"mlp": mlp})
    found = packed_layers(holder, half, Plan(half, half))["mlp"]
    assert isinstance(found, ChunkedMlp)
    assert found.dtype == half
    x = torch.randn(2, 50, 24)
    first = PackedLinear(mlp.fc1.weight, mlp.fc1.bias, mlp.act, half)
    expected = PackedLinear(mlp.fc2.weight, mlp.fc2.bias, None, half)(first(x))
    assert torch.equal(found(x), expected)


@needs_fp16
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (3, 1, 24), (2, 50, 24), (0, 24)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_layer_of_float16_rounds_its_weights_alone(shape: tuple[int, ...], bias: bool) -> None:
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    found = Float16Linear(linear.weight, linear.bias)(x)
    rounded = nn.functional.linear(x, linear.weight.half().float(), linear.bias)
    torch.testing.assert_close(found, rounded)


@needs_fp16
@torch.inference_mode()
def test_a_model_in_fp16_has_the_same_image_and_nearly_the_same_words(tiny: Captioner) -> None:
    fast = Captioner(packed(tiny.model, planned(Precision.fp16)), tiny.tokenizer)
    plain, quick = tiny.encode(PHOTO), fast.encode(PHOTO)
    assert not any(isinstance(m, nn.Linear) for m in fast.model.decoder.modules())
    assert not any(isinstance(m, PackedLinear) for m in fast.model.decoder.modules())
    seen, seen_fast = (one.model.vision(torch.ones(1, 3, 64, 64))[0] for one in (tiny, fast))
    torch.testing.assert_close(seen_fast, seen, atol=1e-3, rtol=1e-3)
    assert_nearly_the_same(plain, quick, score=0.002, weights=0.005)
    with pytest.raises(MethodError, match="needs gradients"):
        quick.explain("a dog").maps(
            method="relevance"
        )  # which these layers would give wrong, and silently


def rounded(rows: torch.Tensor) -> torch.Tensor:
    """Rows `(..., D)` at the nearest of 127 steps to each side of zero, up to the largest of each."""
    step = rows.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (rows / step).round() * step


@needs_int8
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (3, 1, 24), (2, 50, 24), (0, 24)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_layer_of_int8_rounds_each_row_by_its_largest(shape: tuple[int, ...], bias: bool) -> None:
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    x *= torch.logspace(-6, 6, x.numel() // 24).view(*shape[:-1], 1)
    found = Int8Linear(linear.weight, linear.bias)(x)
    expected = nn.functional.linear(rounded(x), rounded(linear.weight), linear.bias)
    size = x.abs().amax(-1, keepdim=True)
    assert found.shape == expected.shape
    assert ((found - expected).abs() <= 0.004 * size).all()  # a step where two are as near


@needs_int8
@torch.inference_mode()
def test_a_row_is_the_same_in_every_batch() -> None:
    """Of whole numbers with whole scales, so that all kernels of oneDNN's scale them without rounding."""
    weight, x = (torch.randint(-127, 128, (rows, 24)).float() for rows in (40, 50))
    weight[:, 0] = x[:, 0] = 127
    x *= 2.0 ** torch.randint(-9, 9, (50, 1))  # one scale for all rows would leave nothing of some
    layer = Int8Linear(weight, torch.randint(-9, 9, (40,)))
    for row in range(50):
        assert torch.equal(layer(x[row : row + 1])[0], layer(x)[row])


@needs_int8
@torch.inference_mode()
def test_zeros_and_what_is_no_number_stay_so() -> None:
    bias = torch.randn(40)
    layer = Int8Linear(torch.randn(40, 24), bias)
    x = torch.zeros(2, 24)
    x[1, 3] = torch.nan
    found = layer(x)
    assert torch.equal(found[0], bias)
    assert found[1].isnan().all()
    torch.testing.assert_close(Int8Linear(torch.zeros(40, 24), bias)(torch.ones(1, 24))[0], bias)


@needs_int8
@torch.inference_mode()
def test_a_model_in_int8_has_nearly_the_same_image_and_words(
    tiny: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = packed(tiny.model, planned(Precision.int8))
    assert not any(isinstance(m, Int8Linear) for m in narrow.modules())
    monkeypatch.setattr("vlm.runtimes.packed._NARROW", 0)
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    fast = Captioner(packed(tiny.model, planned(Precision.int8)), tiny.tokenizer)
    plain, quick = tiny.encode(PHOTO), fast.encode(PHOTO)
    difference = (quick.memory.tokens - plain.memory.tokens).norm()
    assert 0 < difference < 0.03 * plain.memory.tokens.norm()
    many = {name for name, m in fast.model.decoder.named_modules() if isinstance(m, Int8Linear)}
    assert many, "of the decoder the keys and values of the image"
    assert {name.rsplit(".", 1)[-1] for name in many} == {"key_value"}
    assert not any(isinstance(m, nn.Linear) for m in fast.model.modules())
    assert_nearly_the_same(plain, quick, score=0.02, weights=0.02)
    after = tiny.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    again = copy.deepcopy(fast.model)
    assert torch.equal(
        Captioner(again, tiny.tokenizer).encode(PHOTO).memory.tokens, quick.memory.tokens
    )


@needs_int8
@pytest.mark.parametrize("name", ["test_vit3", "swin_tiny_patch4_window7_224", "davit_tiny"])
@torch.inference_mode()
def test_every_encoder_in_int8_gives_nearly_the_same_patches(
    name: str, tiny: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm.runtimes.packed._NARROW", 0)
    model, pixels = seeing(tiny, name)
    found = packed(model, planned(Precision.int8)).vision
    assert any(isinstance(module, Int8Linear) for module in found.modules())
    expected, actual = model.vision(pixels)[0], found(pixels)[0]
    assert 0 < (actual - expected).norm() < 0.1 * expected.norm()


@needs_int8
def test_an_encoder_that_stays_in_float32_is_said_to(
    tiny: Captioner, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = seeing(tiny, "beit_base_patch16_224")
    assert packed(model, planned(Precision.int8)).vision is model.vision
    assert "beit_base_patch16_224 cannot be taken apart into layers of int8" in caplog.text


@pytest.mark.parametrize(
    "precision",
    [
        pytest.param("bf16", marks=needs_bf16),
        pytest.param("fp16", marks=needs_fp16),
        pytest.param("int8", marks=needs_int8),
    ],
)
def test_a_batch_is_captioned_as_one_by_one(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr("vlm.runtimes.packed._NARROW", 0)
    model = vlm.load(tiny_checkpoint, precision=precision)
    photos = [np.roll(PHOTO, i, axis=1) for i in range(3)]
    together = model.caption(photos, max_tokens=6)
    for photo, answer in zip(photos, together):
        alone = model.encode(photo).caption(max_tokens=6)
        assert answer.score == pytest.approx(alone.score, rel=0.05)


@pytest.mark.parametrize(
    ("instructions", "half_speed", "float16", "taken", "why"),
    [
        (("AMX",), 3.14, 2.0, "bf16", "A CPU has AMX, and layers run 3.1 times as fast in bf16"),
        (
            ("AMX",), 1.1, 1.96, "fp16",
            "A CPU has AMX, but layers run 1.1 times as fast in bf16; weights of 16 bits are read 2.0 times as fast",
        ),
        # Emulated bfloat16 gains on few rows and loses on many.
        (
            (), 3.14, 2.0, "fp16",
            "A CPU has no instructions for bf16 that are used here; weights of 16 bits are read 2.0 times as fast",
        ),
        (
            (), 3.14, 1.1, "float32",
            "A CPU has no instructions for bf16 that are used here, and weights of 16 bits are read 1.1 times as fast",
        ),
        ((), 3.14, None, "float32", "A CPU has no instructions for bf16 that are used here"),
    ],
)  # fmt: skip
def test_auto_takes_16_bits_where_they_are_faster_alone(
    monkeypatch: pytest.MonkeyPatch,
    instructions: tuple[str, ...],
    half_speed: float,
    float16: float | None,
    taken: str,
    why: str,
) -> None:
    monkeypatch.setattr(probes, "can_halve", lambda: True)
    monkeypatch.setattr(probes, "processor", lambda: ("A CPU", instructions))
    monkeypatch.setattr(probes, "half_speed", lambda: half_speed)
    monkeypatch.setattr(probes, "can_take_float16", lambda: float16 is not None)
    monkeypatch.setattr(probes, "float16_speed", lambda: float16)
    assert fastest() == (taken, why)


@needs_bf16
def test_a_probe_uses_up_no_seed() -> None:
    state = torch.get_rng_state()
    probes.half_speed.__wrapped__()
    if can_take_float16():
        probes.float16_speed.__wrapped__()
    probes.fused_attention_speed.__wrapped__()
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_is_float32_for_what_has_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "fastest", lambda: ("bf16", "it is faster"))
    assert find_precision("auto") == ("bf16", "it is faster")
    assert find_precision("auto", openvino=True) == ("float32", "OpenVINO computes in it")
    assert find_precision("auto", gradients=True)[0] == "float32"
    monkeypatch.setattr(loading, "find_device", lambda name: torch.device("cuda:0"))
    assert find_precision("auto") == ("float32", "a model on cuda:0 computes in it")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp8"}, "there is no precision 'fp8': give one of auto, float32"),
        ({"precision": "bf16", "openvino": True}, "OpenVINO computes in float32"),
        ({"precision": "bf16", "device": "cuda"}, "a model on cuda computes in float32"),
        ({"precision": "bf16", "gradients": True}, "a model with gradients computes in float32"),
        ({"precision": "fp16", "device": "cuda"}, "fp16 is for models on x86 CPUs here"),
        ({"precision": "int8", "gradients": True}, "a model with gradients computes in float32"),
        ({"precision": "int8", "device": "cuda"}, "int8 is for models on x86 CPUs here"),
        ({"openvino": True, "gradients": True}, "OpenVINO has no gradients"),
    ],
    ids=str,
)
def test_what_is_not_to_be_had_is_named(
    tiny_checkpoint: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(BackendError, match=said):
        vlm.load(tiny_checkpoint, **options)


@pytest.mark.parametrize(
    ("probe", "precision", "instead"),
    [
        ("can_halve", "bf16", "float32"),
        ("can_take_float16", "fp16", "float32"),
        ("can_take_int8", "int8", "OpenVINO, too, or float32"),
    ],
)
def test_a_processor_without_it_is_told(
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    probe: str,
    precision: str,
    instead: str,
) -> None:
    monkeypatch.setattr(loading, probe, lambda: False)
    with pytest.raises(BackendError, match=f"has no {precision}; give {instead}"):
        vlm.load(tiny_checkpoint, precision=precision)


@pytest.mark.parametrize("taken", ["bf16", "float32"])
def test_the_command_says_what_auto_took(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    if taken == "bf16" and not can_halve():
        pytest.skip("no bfloat16 on this processor")
    monkeypatch.setattr(loading, "fastest", lambda: (taken, "the reason"))
    photo = Path(__file__).parents[1] / "assets" / "examples" / "dog.jpg"
    command = ["caption", str(photo), "--model", str(tiny_checkpoint), "--precision", "auto"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert f"precision {taken}: the reason" in result.stderr
    assert "precision" not in result.stdout
