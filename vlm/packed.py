"""Linear layers for inference on x86 CPUs, with weights laid out once as oneDNN reads them: float32 or int8."""

from __future__ import annotations

import platform
from copy import deepcopy
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from vlm.model import VisionLanguageModel
from vlm.vision import VisionEncoder

# What oneDNN computes while a layer's output is still in registers: its name and its algorithm.
_FUSED = {nn.GELU: "gelu", nn.ReLU: "relu"}


_TINY = torch.tensor(1e-30)  # keeps the scale of a row of zeros from being zero


class PackingError(ValueError):
    """A layout that this machine cannot have; the message says why."""


class PackedLinear(nn.Module):
    """`nn.Linear`, and an activation behind it, over weights in oneDNN's own layout.

    At a few rows it reads the weights at the memory's full speed, where the plain layer reaches a third of it:
    several beams cost as much as one. There are no gradients. `torch.compile` with freezing makes the same calls.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = bias
        self.activation = "none" if activation is None else _FUSED[type(activation)]
        self.algorithm = getattr(activation, "approximate", "")

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, self.activation, [], self.algorithm
        )


class Int8Linear(nn.Module):
    """`nn.Linear` over int8 weights with a scale for each output, a quarter of the bytes to read.

    Inputs are rounded to 8 bits with a scale for each row, so that a row's result does not depend on the rows beside
    it; sums are exact (LLM.int8(), Dettmers et al. 2022, without the outliers).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        rows, self.scale = quantise(weight.detach())
        self.weight = torch.ops.onednn.qlinear_prepack(rows, None)
        self.zeros = torch.zeros(len(rows), dtype=torch.int32)
        self.middle = torch.tensor(128.5)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)  # (R, D)
        scale = torch.add(_TINY, rows.abs().amax(dim=1, keepdim=True), alpha=1 / 127)  # (R, 1)
        # In 1..255 around 128; the half makes the conversion, which cuts off, round.
        rounded = torch.addcdiv(self.middle, rows, scale).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, 128, self.weight, self.scale, self.zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        y = y * scale if self.bias is None else torch.addcmul(self.bias, y, scale)
        return y.unflatten(0, x.shape[:-1])


class Int8Embedding(nn.Module):
    """`nn.Embedding` over int8 rows with a scale each."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.rows, scale = quantise(weight.detach())
        self.scale = scale[:, None]

    def forward(self, ids: Tensor) -> Tensor:
        return self.rows[ids] * self.scale[ids]


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(N, D)` as int8, and the scale of each, `(N,)`: the nearest of 255 steps to each side of zero."""
    scale = weight.abs().amax(dim=1) / 127 + _TINY
    return (weight / scale[:, None]).round().to(torch.int8), scale


def can_pack() -> bool:
    """Whether this machine's oneDNN has the layouts."""
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def pack(model: VisionLanguageModel, int8: bool = False) -> None:
    """Replace a model's linear layers by packed ones, in place; its weights are then no longer to be had.

    With `int8` those of the decoder and the reader are rounded to 8 bits; the encoder stays in float32.
    Raises PackingError where the machine has no such layout.
    """
    if not can_pack():
        raise PackingError("packed weights need an x86 processor and a build of torch with oneDNN")
    model.vision = _pack_vision(model.vision)
    _pack_children(model.adapter, int8=False)
    for decoder in (model.decoder, model.reader):
        if decoder is None:
            continue
        embeddings = cast("Tensor", decoder.token_embedding.weight)
        if decoder.head is None and decoder is model.decoder:
            decoder.head = Int8Linear(embeddings, None) if int8 else PackedLinear(embeddings, None)
        _pack_children(decoder, int8)
        if int8:
            decoder.token_embedding = Int8Embedding(embeddings)


def _pack_children(module: nn.Module, int8: bool) -> None:
    children = [*module.named_children(), ("", None)]
    for (name, child), (following, activation) in pairwise(children):
        if isinstance(child, nn.Linear) and int8:
            setattr(module, name, Int8Linear(child.weight, child.bias))
        elif isinstance(child, nn.Linear):
            fused = activation if type(activation) in _FUSED else None
            setattr(module, name, PackedLinear(child.weight, child.bias, fused))
            if fused is not None:
                setattr(module, following, nn.Identity())
        elif child is not None:
            _pack_children(child, int8)


@torch.no_grad()
def _pack_vision(encoder: VisionEncoder) -> VisionEncoder:
    """The encoder with packed layers, or as it was where its modules do not call their layers one after the other."""
    if not any(isinstance(module, nn.Linear) for module in encoder.modules()):
        return encoder
    copy = deepcopy(encoder)
    _pack_children(copy, int8=False)
    probe = torch.randn(1, 3, *encoder.config.preprocess.size)
    expected = encoder(probe)[0]
    try:
        actual = copy(probe)[0]
    except (RuntimeError, AttributeError, TypeError):  # it reads the weights of its layers itself
        return encoder
    return copy if torch.allclose(expected, actual, atol=1e-3, rtol=1e-3) else encoder
