"""Attention times what was attended to: how much each slot added to a token.

A head may look hard at a slot whose value is next to nothing, as at a sink. What counts is the length of the vector
that the slot adds: "Attention is not only a weight", Kobayashi et al., EMNLP 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.hops import by_hops
from vlm.explain.method import Choice, Looks, MethodError
from vlm.model.attention import Attention
from vlm.model.decoder import Decoded, Decoder, Projected
from vlm.runtimes import TextDecoder


def value_norms(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """Shares of what the slots added to a token in the chosen heads; see `vlm.explain.method.Method`.

    Raises MethodError where the runtime does not show its output projections.
    """
    (seen, _), of_question = by_hops(finished, choice, added_shares)
    return seen, of_question


def added_shares(
    decoder: TextDecoder,
    projected: Projected,
    decoded: Decoded,
    heads: Sequence[tuple[int, int]],
) -> Tensor:
    """The length of what each slot added in a layer's heads, as shares, mean over layers, `(T, S)`."""
    if not isinstance(decoder, Decoder):
        raise MethodError(
            "value needs the model's own layers, which OpenVINO does not show: run it without"
        )
    bodies = [sublayer.body for sublayer in decoder.sublayers if sublayer.kind == "c"]
    layers = []
    for layer, group in groupby(sorted(heads), key=lambda pair: pair[0]):
        own = [head for _, head in group]
        added = projected_values(bodies[layer], projected.layers[layer][1][0], own)  # (H, S, D)
        whole = decoded.cross_attention[layer][0, own]
        # Passages come last, and these layers do not read them.
        attention = whole[..., : added.shape[1]]  # (H, T, S)
        # Of a sum of vectors the length, from their products with each other: tokens need no vectors of their own.
        products = torch.einsum("hsd,gsd->shg", added, added)
        squares = torch.einsum("hts,shg,gts->ts", attention, products, attention)
        lengths = squares.clamp(min=0).sqrt()
        shares = lengths / lengths.sum(dim=-1, keepdim=True).clamp(min=1e-12)
        layers.append(F.pad(shares, (0, whole.shape[-1] - shares.shape[-1])))
    return torch.stack(layers).mean(dim=0)


def projected_values(body: Attention, values: Tensor, heads: Sequence[int]) -> Tensor:
    """What each slot adds where a head attends to nothing else, `(H, S, D)`, of values `(all heads, S, D / all)`."""
    count, slots, size = values.shape
    alone = values.new_zeros(len(heads), slots, count, size)
    for i, head in enumerate(heads):
        alone[i, :, head] = values[head]
    nothing = values.new_zeros(1, count * size)
    return body.out(alone.flatten(2)) - body.out(nothing)
