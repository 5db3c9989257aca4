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

    def project(self, source: Tensor) -> KeyValue:
        """Keys and values `(B, H, S, D / H)` of a source `(B, S, source_width)`."""
        keys, values = self.key_value(source).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self, x: Tensor, key_value: KeyValue, mask: Tensor | None = None, explicit: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, `(R, T, D)`, and the probabilities `(R, H, T, S)` when `explicit`, else None.

        `mask` is True where a query may look and broadcasts to `(B, H, n * T, S)`.
        """
        rows, length, width = x.shape
        keys, values = key_value
        images = keys.shape[0]
        queries = self.query(x).view(images, -1, self.heads, width // self.heads)
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

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def causal_mask(length: int, past: int, device: torch.device) -> Tensor:
    """`(length, past + length)`, True where a query may look: all of the past, and no later token than itself."""
    return torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)
