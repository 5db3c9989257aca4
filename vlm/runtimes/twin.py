"""Copies of modules that share their weights, so that a runtime can change layers and leave the model as it was."""

from __future__ import annotations

from copy import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from vlm.model.attention import Attention, KeyValue, attend, joined, split_heads
from vlm.model.decoder import Decoder
from vlm.model.joint_reader import JointReader
from vlm.model.sublayers import Sublayer

M = TypeVar("M", bound=nn.Module)


def twin(module: M) -> M:
    """A module of the same parameters whose children may be replaced without the original's knowing."""
    same = copy(module)
    same._modules = dict(module._modules)
    same._parameters, same._buffers = dict(module._parameters), dict(module._buffers)
    return same


class FusedSelfAttention(nn.Module):
    """Self-attention that makes queries, keys and values in one product, which takes less time for few rows."""

    @torch.no_grad()
    def __init__(self, attention: Attention, keep: bool = True) -> None:
        super().__init__()
        self.heads = attention.heads
        layers = attention.query, attention.key_value
        size = attention.query.in_features, sum(layer.out_features for layer in layers)
        self.query_key_value = nn.Linear(*size, device="meta")
        self.query_key_value.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]))
        self.query_key_value.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
        if not keep:
            for layer in layers:
                give_up(layer)
        self.out = attention.out

    def forward(
        self,
        x: Tensor,
        memory: KeyValue | None = None,
        past: KeyValue | None = None,
        mask: Tensor | None = None,
        explicit: bool = False,
    ) -> tuple[Tensor, KeyValue, Tensor | None]:
        """As `Attention` without a memory."""
        width = x.shape[-1]
        queries, new = self.query_key_value(x).split([width, 2 * width], dim=-1)
        key_value = joined(past, split_heads(new, self.heads))
        attended, probabilities = attend(queries, key_value, self.heads, mask, explicit)
        return self.out(attended), key_value, probabilities


D = TypeVar("D", Decoder, JointReader)


def give_up(layer: nn.Linear) -> None:
    """Free the weights of a layer that another stands in for, so that a model is never in memory twice."""
    layer.weight = layer.bias = None  # type: ignore[assignment]


def fused(decoder: D, keep: bool = True) -> D:
    """A decoder's or a joint reader's twin with fused self-attention; without `keep` the original loses its layers."""
    same = twin(decoder)
    sublayers = [twin(cast("Sublayer", sublayer)) for sublayer in decoder.sublayers]
    for sublayer in sublayers:
        if sublayer.kind == "s":
            attention = cast("Attention", sublayer.body)
            sublayer.body = cast("Attention", FusedSelfAttention(attention, keep))
    same.sublayers = nn.ModuleList(sublayers)
    return same
