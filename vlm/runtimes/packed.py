"""Layers for inference on x86 processors: weights as oneDNN and FBGEMM read them, activations joined to layers."""

from __future__ import annotations

import logging
import platform
from copy import copy, deepcopy
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from vlm.model.attention import Attention
from vlm.model.config import ConfigError
from vlm.model.decoder import Decoder
from vlm.model.joint_reader import JointReader
from vlm.model.model import VisionLanguageModel
from vlm.model.sublayers import Sublayer
from vlm.model.vision import VisionEncoder, agree
from vlm.runtimes.blocks import rebuilt, with_residual
from vlm.runtimes.twin import M, fused, give_up, twin

log = logging.getLogger(__name__)

# What oneDNN computes while a layer's output is still in registers, by its name for it.
_FUSED = {nn.GELU: "gelu", nn.ReLU: "relu"}
_FUSED_IN_CONVOLUTIONS = {
    **_FUSED,
    nn.ReLU6: "hardtanh",
    nn.SiLU: "swish",
    nn.Hardswish: "hardswish",
}

# Of weights that come from memory, and not from a cache, oneDNN reads a tenth more a second when there are this many
# rows to multiply than when there is one. So one is multiplied as often.
_FASTEST, _LARGE = 5, 2_000_000  # bytes

# Layers with fewer channels, coming in or going out, take longer in 8 bits than in float32: what the product saves is
# less than the rounding takes, which goes over all that comes in and goes out several times.
_NARROW = 256
_WHOLE = (torch.float32, torch.int8)  # in which convolutions are in float32
_STEPS = 127  # of 8 bits, to each side of zero
_SMALLEST = 1e-30  # what stands for the largest of numbers that are all zero


class PackedLinear(nn.Module):
    """`nn.Linear`, and an activation behind it, over weights in oneDNN's own layout.

    At a few rows it reads the weights at the memory's full speed, where the plain layer reaches a third of it:
    several beams cost as much as one. There are no gradients. `torch.compile` with freezing makes the same calls.
    With a `dtype` of bfloat16 weights and products are in it, sums and what comes in and out as before.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype))
        self.large = weight.numel() * dtype.itemsize > _LARGE
        self.dtype = dtype
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), False)
        self.activation = "none" if activation is None else _FUSED[type(activation)]
        self.algorithm = getattr(activation, "approximate", "")

    def forward(self, x: Tensor) -> Tensor:
        alone = self.large and x.numel() == x.shape[-1]
        if alone:
            x = x.expand(_FASTEST, *x.shape[1:])
        y = torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.weight, self.bias, self.activation, [], self.algorithm
        ).to(x.dtype)
        return y[:1] if alone else y

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return copy(self)  # the layout has no copy, and nothing ever changes it


class FusedConvolution(nn.Conv2d):
    """`nn.Conv2d`, and an activation behind it, by oneDNN: torch itself takes a slower way at 1 x 1 and one thread.

    There are no gradients.
    """

    def __init__(self, layer: nn.Conv2d, activation: nn.Module | None = None) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(twin(layer).__dict__)  # encoders ask a layer for its stride and more
        self.activation = "none" if activation is None else _FUSED_IN_CONVOLUTIONS[type(activation)]
        self.range = (
            [activation.min_val, activation.max_val] if isinstance(activation, nn.ReLU6) else []
        )
        self.algorithm = getattr(activation, "approximate", "")

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1 and x.stride(1) == 1:
            # A map made of patches is in oneDNN's layout, channels last, but for the stride from image to image. Of
            # one image that has no meaning, and unless it is set right all of the map is copied.
            x = x[0].permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        return torch.ops.mkldnn._convolution_pointwise(
            x,
            self.weight,
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            self.activation,
            self.range,
            self.algorithm,
        )


class Float16Linear(nn.Module):
    """`nn.Linear` over weights that are kept in float16 and multiplied, and summed, in float32, by FBGEMM.

    A few rows take half the time, since half as much is read; many take as long as in float32. There are no gradients.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        held = None if bias is None else bias.detach().float()
        self.weight = torch.ops.quantized.linear_prepack_fp16(
            weight.detach().float().contiguous(), held
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.weight)

    def __deepcopy__(self, memo: dict[int, Any]) -> Float16Linear:
        return copy(self)  # as `PackedLinear`


class Int8Linear(nn.Module):
    """`nn.Linear` over whole numbers of 8 bits, by oneDNN, which sums them in 32; for many rows.

    Weights have a scale for each output, and what comes in has one for each row ("vector-wise" quantisation, Dettmers
    et al. 2022, arXiv 2208.07339), so that a row gives the same in every batch. There are no gradients.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        whole, self.scale = quantise(weight.detach().float())
        self.weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self.zero = torch.zeros(len(whole), dtype=torch.long)
        self.middle = torch.full((whole.shape[1],), _STEPS + 1.5)
        held = torch.zeros(len(whole)) if bias is None else bias.detach().float()
        self.bias = nn.Parameter(held, False)

    def forward(self, x: Tensor) -> Tensor:
        largest = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))
        largest.clamp_(min=_SMALLEST)
        # oneDNN wants them from 0 to 255, with 128 for zero. By way of 16 bits it takes half the time, as torch has no
        # vector instructions from float32 to bytes without a sign.
        whole = torch.addcmul(self.middle, x, _STEPS / largest).to(torch.int16).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            whole, 1 / _STEPS, _STEPS + 1, self.weight, self.scale, self.zero,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return torch.addcmul(self.bias, y, largest, out=y)

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Linear:
        return copy(self)  # as `PackedLinear`


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(N, D)` as int8, and the scale of each, `(N,)`: the nearest of 255 steps to each side of zero."""
    scale = weight.abs().amax(dim=1).clamp(min=_SMALLEST) / _STEPS
    return (weight / scale[:, None]).round().to(torch.int8), scale


class HalfEncoder(VisionEncoder):
    """An encoder that computes in bfloat16; pixels and patches are in float32."""

    def __init__(self, encoder: VisionEncoder) -> None:
        nn.Module.__init__(self)
        self.config, self.width, self.detail_width = (
            encoder.config,
            encoder.width,
            encoder.detail_width,
        )
        self.trunk = deepcopy(encoder.trunk).to(torch.bfloat16)

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        patches, grid = super().forward(pixels.to(torch.bfloat16))
        return patches.float(), grid


def can_pack() -> bool:
    """Whether this machine's oneDNN has the layouts."""
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def packed(
    model: VisionLanguageModel, dtype: torch.dtype = torch.float32, keep: bool = True
) -> VisionLanguageModel:
    """A model's twin whose linear layers are packed; it has no gradients, and the model stays as it was.

    Without `keep` the layers of what reads and writes give up their weights one by one, as they are packed, so that at
    no time there are two of a model in memory; of the model then only the twin can be used.

    In bfloat16 so is all of an encoder of convolutions. The layer of the logits stays in float32, so that words that
    are nearly as likely stay apart. In float16 it is weights alone, of all that reads and writes; the encoder, which
    multiplies many rows and gains nothing, stays in float32. In int8 it is linear layers that multiply many rows: the
    encoder's, a joint reader's, and those of the memory's keys and values, but for narrow ones, which are in float32;
    the few rows of words have float16's.
    """
    same = twin(model)
    same.vision = _packed_vision(model.vision, torch.float32 if dtype == torch.float16 else dtype)
    same.adapter = _packed_children(model.adapter, dtype, keep)
    few = torch.float16 if dtype == torch.int8 else dtype
    for name in ("decoder", "reader"):
        decoder = getattr(model, name)
        if decoder is None:
            continue
        decoder = fused(decoder, keep)
        head = getattr(decoder, "head", None)  # a reader of Florence-2 writes no words
        if isinstance(head, nn.Linear):
            decoder.head = _head(head.weight, head.bias, few)
            if not keep:
                give_up(head)
        elif name == "decoder":
            decoder.head = _head(decoder.token_embedding.weight, None, few)
        rows = dtype if isinstance(decoder, JointReader) else few
        if rows != dtype:
            _project_in_int8(decoder, keep)
        setattr(same, name, _packed_children(decoder, rows, keep))
    return same


def _project_in_int8(decoder: Decoder, keep: bool) -> None:
    """Pack the layers that make keys and values of a memory's slots, of which there are hundreds."""
    for sublayer in decoder.sublayers:
        if cast("Sublayer", sublayer).kind == "c":
            body = sublayer.body = twin(cast("Attention", sublayer.body))
            layer = body.key_value
            body._modules["key_value"], _ = _packed_layer(layer, None, torch.int8)
            if not keep:
                give_up(layer)


def _head(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    return Float16Linear(weight, bias) if dtype == torch.float16 else PackedLinear(weight, bias)


def _packed_children(module: M, dtype: torch.dtype, keep: bool = True) -> M:
    same = twin(module)
    children = [*module.named_children(), ("", None)]
    for (name, child), (following, activation) in pairwise(children):
        if child is None or isinstance(same._modules[name], nn.Identity):
            continue
        layer, joined = _packed_layer(child, activation, dtype)
        if layer is None:
            layer = rebuilt(child, _packed_children(child, dtype, keep), dtype.itemsize)
        same._modules[name] = layer
        if joined:
            same._modules[following] = nn.Identity()
        if isinstance(child, nn.Linear) and not keep:
            give_up(child)
    return same


def _packed_layer(
    layer: nn.Module, activation: nn.Module | None, dtype: torch.dtype
) -> tuple[nn.Module | None, bool]:
    """What stands in for a layer, None for what is no layer, and whether it computes the activation behind it, too."""
    if isinstance(layer, nn.Linear):
        if dtype == torch.float16:
            return Float16Linear(layer.weight, layer.bias), False
        if dtype == torch.int8 and min(layer.weight.shape) >= _NARROW:
            return Int8Linear(layer.weight, layer.bias), False
        dtype = torch.float32 if dtype == torch.int8 else dtype
        joined = activation if type(activation) in _FUSED else None
        return PackedLinear(layer.weight, layer.bias, joined, dtype), joined is not None
    if _is_plain(layer) and dtype in _WHOLE:
        joined = activation if type(activation) in _FUSED_IN_CONVOLUTIONS else None
        return FusedConvolution(cast("nn.Conv2d", layer), joined), joined is not None
    if dtype in _WHOLE and (convolution := with_residual(layer)) is not None:
        return FusedConvolution(convolution), False
    return None, False


def _is_plain(module: nn.Module | None) -> bool:
    """Whether a module is a convolution as torch has it: those of a kind of their own may do more."""
    if type(module) is not nn.Conv2d:
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


@torch.no_grad()
def _packed_vision(encoder: VisionEncoder, dtype: torch.dtype) -> VisionEncoder:
    """The encoder with packed layers, or as it was where its modules do not call their layers one after the other.

    One of convolutions alone is in bfloat16 in whole.
    """
    if dtype == torch.bfloat16 and not any(isinstance(m, nn.Linear) for m in encoder.modules()):
        return HalfEncoder(encoder)
    same = _packed_children(encoder, dtype)
    try:
        packs = agree(encoder, same, 1e-4 if dtype == torch.float32 else 0.1)
    except ConfigError:  # it reads the weights of its layers itself
        packs = False
    if not packs and dtype != torch.float32:
        log.warning(
            "%s cannot be taken apart into layers of %s: it encodes in float32",
            encoder.config.name,
            str(dtype).removeprefix("torch."),
        )
    return same if packs else encoder
