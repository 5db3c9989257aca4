"""Raw cross-attention as an explanation: what the decoder's heads looked at, as they are or in the mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.hops import by_hops
from vlm.explain.method import Choice, Looks
from vlm.model.decoder import Decoded, Projected
from vlm.runtimes import TextDecoder


def raw_attention(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """The mean attention of the chosen heads; see `vlm.explain.method.Method`."""
    (seen, _), of_question = by_hops(finished, choice, attention_shares)
    return seen, of_question


def attention_shares(
    decoder: TextDecoder,
    projected: Projected,
    decoded: Decoded,
    heads: Sequence[tuple[int, int]],
) -> Tensor:
    """The mean of some heads' attention, `(T, S)`; see `vlm.explain.hops.Weigh`."""
    return aligned(decoded.cross_attention, heads)[0]


def aligned(attention: Sequence[Tensor], heads: Sequence[tuple[int, int]]) -> Tensor:
    """The mean of each layer's attention `(R, H, T, S)` over some heads, `(layer, head)`, or over all: `(R, T, S)`."""
    if not heads:
        return torch.stack([layer.mean(dim=1) for layer in attention]).mean(dim=0)
    return torch.stack([attention[layer][:, head] for layer, head in heads]).mean(dim=0)
