"""One attention for looking back at the text and for looking at the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each `(B, H, S, D / H)`: a cache's entry, passed as a value."""


class Attention(nn.Module):
    """Multi-head attention of queries `(R, T, D)` over keys and values that `project` made.

    When there are more rows of queries than of keys, `R = B * n`, the `n` rows that follow each other share one
    row of keys as a view: beams, questions and captions of one image never copy its projection.
    """

    def __init__(self, width: int, heads: int, source_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source_width or width, 2 * width)
        self.out = nn.Linear(width, width)
        self.query_key_value: nn.Module | None = None  # of self-attention that is fused

    @torch.no_grad()
    def fuse(self) -> None:
        """Join the layers that make queries, keys and values of self-attention, which takes less time for few rows.

        Then there is only `look_back`, and no training.
        """
        layers = self.query, self.key_value
        size = self.query.in_features, sum(layer.out_features for layer in layers)
        self.query_key_value = fused = nn.Linear(*size, device="meta")
        fused.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]))
        fused.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
        del self.query, self.key_value

    def project(self, source: Tensor) -> KeyValue:
        """Keys and values `(B, H, S, D / H)` of a source `(B, S, source_width)`."""
        return self._split(self.key_value(source))

    def look_back(
        self,
        x: Tensor,
        past: KeyValue | None = None,
        mask: Tensor | None = None,
        explicit: bool = False,
    ) -> tuple[Tensor, KeyValue]:
        """Self-attention `(R, T, D)` of tokens that follow those of `past`, and the keys and values of all of them."""
        width = x.shape[-1]
        if self.query_key_value is None:
            queries, key_value = self.query(x), self.key_value(x)
        else:
            queries, key_value = self.query_key_value(x).split([width, 2 * width], dim=-1)
        keys, values = self._split(key_value)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        attended, _ = self._attend(queries, (keys, values), mask, explicit)
        return attended, (keys, values)

    def forward(
        self, x: Tensor, key_value: KeyValue, mask: Tensor | None = None, explicit: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, `(R, T, D)`, and the probabilities `(R, H, T, S)` when `explicit`, else None.

        `mask` is True where a query may look and broadcasts to `(B, H, n * T, S)`.
        """
        return self._attend(self.query(x), key_value, mask, explicit)

    def _attend(
        self, queries: Tensor, key_value: KeyValue, mask: Tensor | None, explicit: bool
    ) -> tuple[Tensor, Tensor | None]:
        rows, length, width = queries.shape
        keys, values = key_value
        images = keys.shape[0]
        queries = queries.view(images, -1, self.heads, width // self.heads)
        queries = queries.transpose(1, 2)  # (B, H, n * T, D / H)
        probabilities = None
        if explicit:
            scores = queries @ keys.transpose(-1, -2) / (width // self.heads) ** 0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            weights = scores.softmax(dim=-1)  # (B, H, n * T, S)
            attended = weights @ values
            probabilities = weights.unflatten(2, (rows // images, length))
            probabilities = probabilities.transpose(1, 2).flatten(0, 1)  # (R, H, T, S)
        else:
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        attended = attended.transpose(1, 2).reshape(rows, length, width)
        return self.out(attended), probabilities

    def _split(self, key_value: Tensor) -> KeyValue:
        keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in key_value.chunk(2, dim=-1)
        )
        return keys, values


def causal_mask(length: int, past: int, device: torch.device) -> Tensor:
    """`(length, past + length)`, True where a query may look: all of the past, and no later token than itself."""
    return torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)
