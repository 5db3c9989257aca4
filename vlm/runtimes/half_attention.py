"""Self-attention of timm's encoders in bfloat16, between packed layers: three ways to compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.runtimes.layers import Int8Linear, PackedLinear

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values, `(B, N, D)` each, to what was attended to, `(B, N, D)`."""


class InHeads(Protocol):
    """The same of so many heads."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor: ...


# As many scores, of some heads together, stay in the processor's cache from one product to the next.
_SCORES = 1 << 20


class HalfAttention(nn.Module):
    """Self-attention `(B, N, D)` whose queries, keys, values and scores are in bfloat16."""

    def __init__(
        self,
        qkv: PackedLinear | Int8Linear,
        proj: PackedLinear | Int8Linear,
        attend: Attend,
    ) -> None:
        super().__init__()
        self.qkv, self.proj, self.attend = qkv, proj, attend

    def forward(self, x: Tensor, **masks: object) -> Tensor:
        assert all(mask is None or mask is False for mask in masks.values()), "patches have none"
        qkv = self.qkv(x.to(self.qkv.dtype)).to(torch.bfloat16)
        queries, keys, values = qkv.chunk(3, dim=-1)
        attended = self.attend(queries, keys, values)
        return self.proj(attended.to(self.proj.dtype)).to(x.dtype)


def at_once(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Torch's own, the fastest where the processor has AMX; sums and scores are in float32."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def by_heads(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Products of some heads at a time, the fastest where the processor has AVX512-BF16 alone."""
    (batch, length, width), scale = queries.shape, (queries.shape[2] // heads) ** -0.5
    rows = [
        part.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)  # (B * H, N, D / H)
        for part in (queries, keys, values)
    ]
    attended = torch.empty_like(rows[0])
    together = max(1, _SCORES // length**2)
    for q, k, v, out in zip(*(part.split(together) for part in (*rows, attended)), strict=True):
        torch.bmm((q * scale).bmm(k.transpose(1, 2)).softmax(-1), v, out=out)
    return attended.unflatten(0, (batch, heads)).transpose(1, 2).reshape(batch, length, width)


def across_channels(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, by_places: bool
) -> Tensor:
    """DaViT's (Ding et al. 2022, arXiv 2204.03645): a query is a channel, and attends to the channels of its head.

    Scores are divided by the root of how many places there are if `by_places`, else of a head's channels. Where there
    are more places than channels it is two products of whole matrices, of which the channels of other heads are
    masked: more is multiplied than needs be, but nothing is laid out anew.
    """
    (_, length, width), size = queries.shape, queries.shape[2] // heads
    scale = (length if by_places else size) ** -0.5
    if length < width:
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values)
        )
        scores = (q * scale).transpose(-1, -2) @ k  # (B, H, D / H, D / H)
        attended = v @ scores.softmax(-1).transpose(-1, -2)
        return attended.transpose(1, 2).flatten(2)
    head = torch.arange(width, device=queries.device) // size
    others = head[:, None] != head
    attended = torch.empty_like(values)
    for q, k, v, out in zip(queries, keys, values, attended):  # a batch of products takes longer
        scores = (q.T @ k).float().mul_(scale).masked_fill_(others, float("-inf"))  # (D, D)
        torch.mm(v, scores.softmax(-1).to(v.dtype).T, out=out)
    return attended


def across_channels_of_keys(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """The same as DaViT's first edition names them: keys attend to values, and queries are what is summed."""
    return across_channels(keys, values, queries, heads, by_places=False)
