"""Which patches spoke for the word: what attention carried from each patch to the word's logit.

The residual stream is a sum, so a word's log-probability has a share of every vector that a head wrote into it ("A
mathematical framework for transformer circuits", Elhage et al. 2021; of whole models Ferrando et al., ACL 2023). A head
that looks hard at what says nothing of the word adds nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.explain.finished import Finished
from vlm.explain.hops import by_hops
from vlm.explain.method import Choice, Head, Looks, MethodError, chosen_heads, looks
from vlm.explain.raw_attention import attention_shares
from vlm.model.attention import Attention
from vlm.model.decoder import Decoded, Decoder
from vlm.runtimes import Runtime

BELL = 1 / 16  # of the grid's sides: the deviation of the bell that maps are smoothed by


@torch.inference_mode()
def logit(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """Shares of what the slots added to a token's log-probability; see `vlm.explain.method.Method`.

    All heads of the later half of the layers have a part unless some are chosen: only the way straight from a head to
    the logit counts, and not what later layers make of it, which is most of what early heads do. What spoke against a
    token counts nothing: it is cut off head by head, or heads that look at one place for different reasons would undo
    each other. What falls on neighbouring patches is joined by a bell, since an encoder's patches know of each other.
    Words of a question were not predicted and keep the plain attention of the alignment heads. Raises MethodError where
    `has_logits` is False, and for a text that passages were read for: layers behind the decoder have its last word.
    """
    model, config = finished.model, finished.model.config.decoder
    if not has_logits(model):
        raise MethodError(
            "logit needs a decoder of our own kind in torch, whose layers add up to its words; "
            "attention is for all"
        )
    if finished.projected.grounding is not None:
        raise MethodError("logit is for texts about the image alone; with passages take attention")
    (seen, decoded), of_question = by_hops(finished, choice, attention_shares)
    layers = config.sublayers.count("c")
    late = [(y, h) for y in range(layers // 2, layers) for h in range(config.heads)]
    heads = chosen_heads(config, choice) if choice.given() else late
    evidence = _evidence(finished, decoded, heads)  # (N, S)
    shares = evidence / evidence.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    given = seen.rows(slice(len(finished.prompt.ids)))
    said = looks(finished.memory, shares)
    memory = finished.memory
    shown = torch.ones_like(said.patches[0])
    if memory.lift is None:
        shown = memory.on_patches(memory.real.to(shown))[0]  # (h, w)
    said = Looks(smoothed(said.patches, shown), said.others)
    return Looks.joined([given, said]), of_question


def smoothed(maps: Tensor, shown: Tensor) -> Tensor:
    """Maps `(T, h, w)` under a bell of `BELL`, each with the sum that it had, and nothing where `shown` `(h, w)` is 0.

    Beyond the border is what lies at it.
    """
    sums = maps.sum(dim=(1, 2), keepdim=True)
    for side in (1, 2):
        deviation = BELL * maps.shape[side]
        reach = min(round(3 * deviation), maps.shape[side] - 1)
        steps = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
        bell = torch.exp(-0.5 * (steps / deviation) ** 2)
        lines = F.pad(maps.movedim(side, 2), (reach, reach), mode="replicate")
        maps = (lines.unfold(2, len(bell), 1) @ (bell / bell.sum())).movedim(2, side)
    maps = maps * shown
    return maps * sums / maps.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def has_logits(model: Runtime) -> bool:
    """Whether what a head writes can be read as logits.

    So it is where it is added to the rest, and words are the inner products of that with their embeddings; and where
    the decoder attends to the image itself, and its layers are to be had.
    """
    decoder, config = model.decoder, model.config.decoder
    plain = config.prenorm and config.tied and config.norm == "layer" and not config.head_transform
    return isinstance(decoder, Decoder) and model.reader is None and plain


def _evidence(finished: Finished, decoded: Decoded, heads: Sequence[Head]) -> Tensor:
    """How much each slot spoke for each of the text's N tokens through some heads, of at least 0, `(N, S)`."""
    decoder, prompt, count = finished.model.decoder, len(finished.prompt.ids), len(finished.ids)
    assert isinstance(decoder, Decoder)
    rows = slice(prompt - 1, prompt - 1 + count)
    towards = _towards(decoder, decoded.hidden[0, rows], finished.sequence[0, prompt:])  # (N, D)
    bodies = [sublayer.body for sublayer in decoder.sublayers if sublayer.kind == "c"]
    evidence = []
    for layer in sorted({layer for layer, _ in heads}):
        own = [head for other, head in heads if other == layer]
        values = finished.projected.layers[layer][1][0, own]  # (H, S, D / all)
        wanted = _before_output(cast("Attention", bodies[layer]), towards)[own]  # (H, N, D / all)
        said = decoded.cross_attention[layer][0, own, rows] * (wanted @ values.mT)  # (H, N, S)
        evidence.append(said.clamp(min=0).sum(dim=0))
    return torch.stack(evidence).sum(dim=0)


def _towards(decoder: Decoder, hidden: Tensor, ids: Tensor) -> Tensor:
    """Along which vector the log-probability of each token grows, `(N, D)`, its final norm's scale left out."""
    embeddings = decoder.token_embedding.weight  # (V, D)
    expected = decoder.logits(hidden).float().softmax(dim=-1).to(embeddings.dtype) @ embeddings
    norm = decoder.final_norm
    assert isinstance(norm, nn.LayerNorm)
    towards = (embeddings[ids] - expected) * norm.weight
    return towards - towards.mean(dim=-1, keepdim=True)


def _before_output(body: Attention, vectors: Tensor) -> Tensor:
    """Vectors `(N, D)` as each head's values meet them through the output projection, `(H, N, D / H)`."""
    width = vectors.shape[1]
    inputs = torch.eye(width, device=vectors.device, dtype=vectors.dtype)
    weights = body.out(inputs) - body.out(torch.zeros_like(inputs[:1]))  # (D, D), input by output
    return (vectors @ weights.mT).unflatten(1, (body.heads, -1)).transpose(0, 1)
