"""One head of cross-attention as it chose a token, step by step: scores, weights, weighted values.

"Attention is all you need", Vaswani et al. 2017, equation 1, softmax(q k / sqrt(d)) v; how long what a slot adds is, as
in "Attention is not only a weight", Kobayashi et al., EMNLP 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vlm.explain.finished import Finished
from vlm.explain.method import Choice, MethodError, chosen_heads
from vlm.explain.value_norms import projected_values
from vlm.model.attention import Attention
from vlm.model.decoder import Decoder


@dataclass(frozen=True)
class Inside:
    """What one head did for one token, at each patch, `(h, w)`.

    `scores` are queries times keys over the root of the head's width, `weights` their softmax over all slots, and
    `added` the lengths of the vectors that each patch's value adds to the token, weighted and projected. Hidden patches
    score -inf. `elsewhere` are the weights of the memory's other segments, by name. `token` is what was chosen.
    """

    token: str
    scores: Tensor
    weights: Tensor
    added: Tensor
    elsewhere: Mapping[str, float]


@torch.inference_mode()
def inside(finished: Finished, token: int, layer: int, head: int) -> Inside:
    """Look inside a head of a cross-attention layer, both from 0, as it chose the text's `token`, from 0.

    Raises MethodError where there is no such head, where the runtime does not show its layers, or where the decoder
    attends to no patches: where a reader reads the question for it, or patches are pooled.
    """
    model, memory = finished.model, finished.memory
    chosen_heads(model.config.decoder, Choice(layer, head))
    if not isinstance(model.decoder, Decoder):
        raise MethodError(
            "looking inside needs the model's own layers, which OpenVINO does not show: run it without"
        )
    if memory.lift is not None or (finished.question is not None and model.reader is not None):
        raise MethodError(
            "the decoder of this model attends to no patches here, but to what pooled or read them"
        )
    if not 0 <= token < len(finished.ids):
        raise MethodError(f"there is no token {token}; the text has {len(finished.ids)}")
    row = finished.rows[len(finished.prompt.ids) + token]
    with Queries() as asked:
        model.decoder(finished.sequence, finished.projected)
    kinds = model.config.decoder.sublayers.replace("m", "")
    place = [i for i, kind in enumerate(kinds) if kind == "c"][layer]
    query = asked.queries[place][0, head, row]  # (d,)
    keys, values = finished.projected.layers[layer]
    memory = memory.before(keys.shape[2])  # passages come last, for layers behind the decoder's
    scores = keys[0, head] @ query / query.shape[0] ** 0.5  # (S,)
    scores = scores.masked_fill(~memory.real[0], float("-inf"))
    weights = scores.softmax(dim=0)
    bodies = [sublayer.body for sublayer in model.decoder.sublayers if sublayer.kind == "c"]
    body = cast("Attention", bodies[layer])
    added = weights * projected_values(body, values[0], [head])[0].norm(dim=-1)
    image = memory.image
    assert image.grid is not None
    scores_at, weights_at, added_at = (
        slots[image.start : image.stop].unflatten(0, image.grid).float().cpu()
        for slots in (scores, weights, added)
    )
    shares = memory.shares(weights[None])
    elsewhere = {name: float(share) for name, share in shares.items() if name != image.name}
    text = finished.tokenizer.decode([finished.ids[token]])
    return Inside(text, scores_at, weights_at, added_at, elsewhere)


class Queries(TorchFunctionMode):
    """While it is open, keeps the queries `(B, H, T, d)` of each fused attention.

    It holds for the thread that opened it, and nothing in a module is changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.queries.append(args[0])
        return func(*args, **(kwargs or {}))
