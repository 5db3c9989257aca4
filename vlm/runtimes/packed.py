"""A model's twin for inference on x86 processors, of layers whose weights lie as oneDNN and FBGEMM read them."""

from __future__ import annotations

import logging
from copy import deepcopy
from itertools import pairwise
from typing import cast

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
from vlm.runtimes.layers import (
    JOINED,
    JOINED_TO_CONVOLUTIONS,
    Float16Linear,
    FusedConvolution,
    Int8Linear,
    PackedLinear,
)
from vlm.runtimes.plan import FLOAT32, Plan
from vlm.runtimes.twin import M, fused, give_up, twin

log = logging.getLogger(__name__)

# Layers with fewer channels, coming in or going out, take longer in 8 bits: what the product saves is less than the
# rounding takes, which goes over all that comes in and goes out several times.
_NARROW = 256


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


def packed(
    model: VisionLanguageModel, plan: Plan = FLOAT32, keep: bool = True
) -> VisionLanguageModel:
    """A model's twin whose linear layers are packed; it has no gradients, and the model stays as it was.

    Without `keep` the layers of what reads and writes give up their weights one by one, as they are packed, so that at
    no time there are two of a model in memory; of the model then only the twin can be used.

    An encoder of nothing but convolutions is in bfloat16 in whole where the plan has these in it.
    """
    same = twin(model)
    same.vision = _packed_vision(model.vision, plan)
    same.adapter = packed_layers(model.adapter, plan.slots, plan, keep)
    for name in ("decoder", "reader"):
        decoder = getattr(model, name)
        if decoder is None:
            continue
        decoder = fused(decoder, keep)
        head = getattr(decoder, "head", None)  # a reader of Florence-2 writes no words
        if isinstance(head, nn.Linear):
            decoder.head = _head(head.weight, head.bias, plan.head)
            if not keep:
                give_up(head)
        elif name == "decoder":
            decoder.head = _head(decoder.token_embedding.weight, None, plan.head)
        if isinstance(decoder, JointReader):
            setattr(same, name, packed_layers(decoder, plan.slots, plan, keep))
        else:
            _pack_projections(decoder, plan, keep)
            setattr(same, name, packed_layers(decoder, plan.words, plan, keep))
    return same


def _pack_projections(decoder: Decoder, plan: Plan, keep: bool) -> None:
    """Pack the layers that make keys and values of a memory's slots, of which there are hundreds."""
    for sublayer in decoder.sublayers:
        if cast("Sublayer", sublayer).kind == "c":
            body = sublayer.body = twin(cast("Attention", sublayer.body))
            layer = body.key_value
            body._modules["key_value"] = _packed_linear(layer, plan.slots, plan)
            if not keep:
                give_up(layer)


def _head(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    return Float16Linear(weight, bias) if dtype == torch.float16 else PackedLinear(weight, bias)


def packed_layers(module: M, dtype: torch.dtype, plan: Plan, keep: bool = True) -> M:
    """A module's twin of packed layers, linear ones in a type of the plan's."""
    same = twin(module)
    children = [*module.named_children(), ("", None)]
    for (name, child), (following, activation) in pairwise(children):
        if child is None or isinstance(same._modules[name], nn.Identity):
            continue
        layer, joined = _packed_layer(child, activation, dtype, plan)
        if layer is None:
            layer = rebuilt(child, packed_layers(child, dtype, plan, keep), plan)
        same._modules[name] = layer
        if joined:
            same._modules[following] = nn.Identity()
        if isinstance(child, nn.Linear) and not keep:
            give_up(child)
    return same


def _packed_layer(
    layer: nn.Module, activation: nn.Module | None, dtype: torch.dtype, plan: Plan
) -> tuple[nn.Module | None, bool]:
    """What stands in for a layer, None for what is no layer, and whether it computes the activation behind it, too."""
    if isinstance(layer, nn.Linear):
        joined = activation if type(activation) in JOINED else None
        found = _packed_linear(layer, dtype, plan, joined)
        return found, joined is not None and isinstance(found, PackedLinear)
    if _is_plain(layer):
        convolution = cast("nn.Conv2d", layer)
        joined = activation if type(activation) in JOINED_TO_CONVOLUTIONS else None
        # Those of single channels multiply so little that rounding takes as long.
        dtype = plan.narrow if convolution.groups == 1 else torch.float32
        return FusedConvolution(convolution, joined, dtype), joined is not None
    if (whole := with_residual(layer)) is not None:
        return FusedConvolution(whole), False
    return None, False


def _packed_linear(
    layer: nn.Linear, dtype: torch.dtype, plan: Plan, activation: nn.Module | None = None
) -> nn.Module:
    """A linear layer in a type of the plan's, with an activation behind it where it can be joined."""
    if dtype == torch.float16:
        return Float16Linear(layer.weight, layer.bias)
    if dtype == torch.int8 and min(layer.weight.shape) >= _NARROW:
        return Int8Linear(layer.weight, layer.bias)
    dtype = plan.narrow if dtype == torch.int8 else dtype
    return PackedLinear(layer.weight, layer.bias, activation, dtype)


def _is_plain(module: nn.Module | None) -> bool:
    """Whether a module is a convolution as torch has it: those of a kind of their own may do more."""
    if type(module) is not nn.Conv2d:
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


@torch.no_grad()
def _packed_vision(encoder: VisionEncoder, plan: Plan) -> VisionEncoder:
    """The encoder with packed layers, or as it was where its modules do not call their layers one after the other."""
    half = plan.narrow == torch.bfloat16
    if half and not any(isinstance(module, nn.Linear) for module in encoder.modules()):
        return HalfEncoder(encoder)
    same = packed_layers(encoder, plan.vision, plan)
    whole = plan.vision == torch.float32
    try:
        packs = agree(encoder, same, 1e-4 if whole else 0.1)
    except ConfigError:  # it reads the weights of its layers itself
        packs = False
    if not packs and not whole:
        log.warning(
            "%s cannot be taken apart into layers of %s: it encodes in float32",
            encoder.config.name,
            str(plan.vision).removeprefix("torch."),
        )
    return same if packs else encoder
