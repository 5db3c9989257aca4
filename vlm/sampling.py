"""Which tokens a search may take next, by its options, and a draw from them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vlm.options import Options


def allowed(logits: Tensor, tokens: Tensor, length: int, end: int, options: Options) -> Tensor:
    """Logits after repetition control and the minimum length."""
    if options.repetition_penalty != 1 and tokens.shape[1]:
        used = logits.gather(1, tokens)
        penalised = torch.where(
            used > 0, used / options.repetition_penalty, used * options.repetition_penalty
        )
        logits = logits.scatter(1, tokens, penalised)
    if options.no_repeat_ngram and tokens.shape[1] >= options.no_repeat_ngram:
        logits = logits.clone()
        for row, banned in enumerate(_repeats(tokens.tolist(), options.no_repeat_ngram)):
            logits[row, banned] = float("-inf")
    if length <= options.min_tokens:
        logits = logits.clone()
        logits[:, end] = float("-inf")
    return logits


def draw(logits: Tensor, chances: Tensor, options: Options) -> Tensor:
    """One sampled token for each row, `(R,)`, of the `top_k` and the smallest set that holds `top_p`.

    `chances` `(R,)` are uniform in [0, 1): a token is drawn where the sum of all probabilities up to its own passes it.
    """
    logits = logits / options.temperature
    if options.top_k:
        floor = logits.topk(min(options.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if options.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= options.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
    sums = probabilities.cumsum(dim=-1)
    drawn = torch.searchsorted(sums, (chances * sums[:, -1])[:, None], right=True)[:, 0]
    # Rounding may make the product the whole sum, which no token passes; the last that can be drawn reaches it.
    return torch.minimum(drawn, torch.searchsorted(sums, sums[:, -1:].contiguous())[:, 0])


def seeded_chances(seed: int | None, candidate: int, count: int) -> Tensor:
    """What decides a row's tokens: `count` numbers uniform in [0, 1), the same on every device."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed((seed * 1_000_003 + candidate) % 2**63)
    return torch.rand(count, generator=generator)


def _repeats(rows: list[list[int]], size: int) -> Iterator[list[int]]:
    """For each row, the tokens that would complete an n-gram it already has."""
    for ids in rows:
        head = ids[len(ids) - size + 1 :]
        yield [
            ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == head
        ]
