"""Which patches spoke for the word: what attention carried from each patch to the word's logit.

The residual stream is a sum, so a word's log-probability has a share of every vector that a head wrote into it ("A
mathematical framework for transformer circuits", Elhage et al. 2021; of whole models Ferrando et al., ACL 2023). A head
that looks hard at what says nothing of the word adds nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vlm.explain.finished import Finished
from vlm.explain.hops import by_hops
from vlm.explain.method import Choice, Head, Looks, MethodError, chosen_heads, looks
from vlm.explain.raw_attention import attention_shares
from vlm.model.attention import Attention
from vlm.model.decoder import Decoded, Decoder
from vlm.runtimes import Runtime


@torch.inference_mode()
def logit(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """Shares of what the slots added to a token's log-probability; see `vlm.explain.method.Method`.

    All heads have a part unless some are chosen. What spoke against a token counts nothing: it is cut off head by head,
    or heads that look at one place for different reasons would undo each other. Only the way straight from a head to
    the logit counts, and not what later layers make of it. Words of a question were not predicted and keep the plain
    attention of the alignment heads. Raises MethodError where `has_logits` is False, and for a text that passages were
    read for: layers behind the decoder have the last word on it.
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
    every = [(y, h) for y in range(config.sublayers.count("c")) for h in range(config.heads)]
    heads = chosen_heads(config, choice) if choice.given() else every
    evidence = _evidence(finished, decoded, heads)  # (N, S)
    shares = evidence / evidence.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    given = seen.rows(slice(len(finished.prompt.ids)))
    return Looks.joined([given, looks(finished.memory, shares)]), of_question


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
