"""Linear layers for inference on x86 CPUs, with weights laid out once as oneDNN reads them."""

from __future__ import annotations

import platform
from copy import deepcopy
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from vlm.model.model import VisionLanguageModel
from vlm.model.vision import VisionEncoder

# What oneDNN computes while a layer's output is still in registers: its name and its algorithm.
_FUSED = {nn.GELU: "gelu", nn.ReLU: "relu"}

# Of weights that come from memory, and not from a cache, oneDNN reads a tenth more a second when there are this many
# rows to multiply than when there is one. So one is multiplied as often.
_FASTEST, _LARGE = 5, 2_000_000  # bytes


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
        self.large = weight.nbytes > _LARGE
        self.bias = bias
        self.activation = "none" if activation is None else _FUSED[type(activation)]
        self.algorithm = getattr(activation, "approximate", "")

    def forward(self, x: Tensor) -> Tensor:
        alone = self.large and x.numel() == x.shape[-1]
        if alone:
            x = x.expand(_FASTEST, *x.shape[1:])
        y = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, self.activation, [], self.algorithm
        )
        return y[:1] if alone else y


def can_pack() -> bool:
    """Whether this machine's oneDNN has the layouts."""
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def pack(model: VisionLanguageModel) -> None:
    """Replace a model's linear layers by packed ones, in place; its weights are then no longer to be had."""
    model.vision = _pack_vision(model.vision)
    _pack_children(model.adapter)
    for decoder in (model.decoder, model.reader):
        if decoder is None:
            continue
        decoder.fuse()
        if decoder.head is None and decoder is model.decoder:
            decoder.head = PackedLinear(cast("Tensor", decoder.token_embedding.weight), None)
        _pack_children(decoder)


def _pack_children(module: nn.Module) -> None:
    children = [*module.named_children(), ("", None)]
    for (name, child), (following, activation) in pairwise(children):
        if isinstance(child, nn.Linear):
            fused = activation if type(activation) in _FUSED else None
            setattr(module, name, PackedLinear(child.weight, child.bias, fused))
            if fused is not None:
                setattr(module, following, nn.Identity())
        elif child is not None:
            _pack_children(child)


@torch.no_grad()
def _pack_vision(encoder: VisionEncoder) -> VisionEncoder:
    """The encoder with packed layers, or as it was where its modules do not call their layers one after the other."""
    if not any(isinstance(module, nn.Linear) for module in encoder.modules()):
        return encoder
    copy = deepcopy(encoder)
    _pack_children(copy)
    probe = torch.randn(1, 3, *encoder.config.preprocess.size)
    expected = encoder(probe)[0]
    try:
        actual = copy(probe)[0]
    except (RuntimeError, AttributeError, TypeError):  # it reads the weights of its layers itself
        return encoder
    return copy if torch.allclose(expected, actual, atol=1e-3, rtol=1e-3) else encoder
