"""Weights laid out for inference on x86 processors, as oneDNN reads them."""

from __future__ import annotations

import platform
from copy import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vlm.model.model import VisionLanguageModel
from vlm.model.vision import VisionEncoder, probe_pixels
from vlm.runtimes.twin import M, fused, twin

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

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return copy(self)  # the layout has no copy, and nothing ever changes it


def can_pack() -> bool:
    """Whether this machine's oneDNN has the layouts."""
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def packed(model: VisionLanguageModel) -> VisionLanguageModel:
    """A model's twin whose linear layers are packed; it has no gradients, and the model stays as it was."""
    same = twin(model)
    same.vision = _packed_vision(model.vision)
    same.adapter = _packed_children(model.adapter)
    for name in ("decoder", "reader"):
        decoder = getattr(model, name)
        if decoder is None:
            continue
        decoder = fused(decoder)
        if name == "decoder" and decoder.head is None:
            decoder.head = PackedLinear(decoder.token_embedding.weight, None)
        setattr(same, name, _packed_children(decoder))
    return same


def _packed_children(module: M) -> M:
    same = twin(module)
    children = [*module.named_children(), ("", None)]
    for (name, child), (following, activation) in pairwise(children):
        if isinstance(child, nn.Linear):
            joined = activation if type(activation) in _FUSED else None
            same._modules[name] = PackedLinear(child.weight, child.bias, joined)
            if joined is not None:
                same._modules[following] = nn.Identity()
        elif child is not None and not isinstance(same._modules[name], nn.Identity):
            same._modules[name] = _packed_children(child)
    return same


@torch.no_grad()
def _packed_vision(encoder: VisionEncoder) -> VisionEncoder:
    """The encoder with packed layers, or as it was where its modules do not call their layers one after the other."""
    if not any(isinstance(module, nn.Linear) for module in encoder.modules()):
        return encoder
    same = _packed_children(encoder)
    probe = probe_pixels(encoder)
    expected = encoder(probe)[0]
    try:
        actual = same(probe)[0]
    except (RuntimeError, AttributeError, TypeError):  # it reads the weights of its layers itself
        return encoder
    return same if torch.allclose(expected, actual, atol=1e-3, rtol=1e-3) else encoder
