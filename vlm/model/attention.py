"""One attention for looking back at the text and for looking at a memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each `(B, H, S, D / H)`: a cache's entry, passed as a value."""


class Attention(nn.Module):
    """Multi-head attention of tokens `(R, T, D)`, over themselves or over the keys and values of a memory.

    When there are more rows of queries than of keys, `R = B * n`, the `n` rows that follow each other share one
    row of keys as a view: beams, questions and captions of one image never copy its projection.
    """

    def __init__(self, width: int, heads: int, source_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        memory: KeyValue | None = None,
        past: KeyValue | None = None,
        mask: Tensor | None = None,
        explicit: bool = False,
    ) -> tuple[Tensor, KeyValue, Tensor | None]:
        """What was attended to, `(R, T, D)`, its keys and values, and the probabilities `(R, H, T, S)` if `explicit`.

        With a `memory`, which `project` made, it is that; else the tokens of `past` and these. `mask` is True where
        a query may look, or numbers to add to its scores, and broadcasts to `(B, H, n * T, S)`.
        """
        key_value = memory if memory is not None else joined(past, self.project(x))
        attended, probabilities = attend(self.query(x), key_value, self.heads, mask, explicit)
        return self.out(attended), key_value, probabilities

    def project(self, source: Tensor) -> KeyValue:
        """Keys and values `(B, H, S, D / H)` of a source `(B, S, source_width)`."""
        return split_heads(self.key_value(source), self.heads)


def split_heads(key_value: Tensor, heads: int) -> KeyValue:
    """Keys and values side by side, `(B, S, 2 * D)`, as `(B, H, S, D / H)` each."""
    keys, values = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in key_value.chunk(2, dim=-1)
    )
    return keys, values


def joined(past: KeyValue | None, new: KeyValue) -> KeyValue:
    """Keys and values of earlier tokens and of those that follow them."""
    if past is None:
        return new
    return torch.cat([past[0], new[0]], dim=2), torch.cat([past[1], new[1]], dim=2)


def attend(
    queries: Tensor, key_value: KeyValue, heads: int, mask: Tensor | None, explicit: bool
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention of queries `(R, T, D)`: `(R, T, D)` and, if `explicit`, `(R, H, T, S)`.

    "Attention is all you need", Vaswani et al. 2017; fused where the probabilities are not asked for.
    """
    rows, length, width = queries.shape
    keys, values = key_value
    images = keys.shape[0]
    queries = queries.view(images, -1, heads, width // heads).transpose(1, 2)  # (B, H, n * T, D/H)
    probabilities = None
    if explicit:
        scores = queries @ keys.transpose(-1, -2) / (width // heads) ** 0.5
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        weights = scores.softmax(dim=-1)  # (B, H, n * T, S)
        attended = weights @ values
        probabilities = weights.unflatten(2, (rows // images, length))
        probabilities = probabilities.transpose(1, 2).flatten(0, 1)  # (R, H, T, S)
    else:
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return attended.transpose(1, 2).reshape(rows, length, width), probabilities


def causal_mask(length: int, past: int, device: torch.device) -> Tensor:
    """`(length, past + length)`, True where a query may look: all of the past, and no later token than itself."""
    return torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)
