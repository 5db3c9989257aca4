"""A word's map less what the words before it explain.

A caption's maps look much alike: what one word looked at echoes in those that follow. "Token Activation Map to visually
explain multimodal LLMs", Li et al., ICCV 2025, takes the echo out: the estimated interference of a word is the mean of
the maps before it, weighted by how much their tokens speak for it, and of the word's own map is left what exceeds the
interference, scaled to fit. Its filter against noise is left out: it is for grids of many cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.hops import by_hops
from vlm.explain.method import Choice, Looks
from vlm.explain.raw_attention import attention_shares


@torch.inference_mode()
def context(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """The mean attention of the chosen heads less the interference; see `vlm.explain.method.Method`.

    What is left has the mass that was there before. A reader has no words to speak for: its question keeps the plain
    attention.
    """
    (seen, decoded), of_question = by_hops(finished, choice, attention_shares)
    (ids,) = finished.sequence.tolist()
    logits = finished.model.decoder.logits(decoded.hidden[0]).float()  # (T, V)
    speak = logits[:, ids].clamp(min=0).T  # (T, T): how much each token's state speaks for another
    maps = seen.patches.flatten(1)
    rest = maps.clone()
    before = {*finished.prompt.given, *range(len(finished.prompt.ids), len(ids))}
    for token in sorted(before):
        # A word that was said before is no other's echo.
        earlier = [i for i in sorted(before) if i < token and ids[i] != ids[token]]
        if earlier:
            rest[token] = less_the_echo(maps[token], maps[earlier], speak[token, earlier])
    rest = rest * maps.sum(dim=1, keepdim=True) / rest.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return Looks(rest.view_as(seen.patches), seen.others), of_question


def less_the_echo(own: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """What of a map `(P,)` exceeds the mean of others `(N, P)` by `weights` `(N,)`, scaled by least squares."""
    if not weights.sum():
        return own
    echo = (weights @ others) / weights.sum()
    scale = (own @ echo) / (echo @ echo).clamp(min=1e-12)
    return (own - scale * echo).clamp(min=0)
