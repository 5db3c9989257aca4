"""Raw cross-attention as an explanation: what the decoder's heads looked at, as they are or in the mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm.explain.finished import Finished


@torch.inference_mode()
def attention_on_patches(
    finished: Finished, layer: int | None, head: int | None
) -> tuple[Tensor, Tensor | None]:
    """Attention of each token on the patches, `(T, h, w)`; see `vlm.explain.maps.Method`.

    The text is run once more, teacher-forced, with explicit probabilities (as OpenAI's whisper aligns words), which
    are averaged over the decoder's alignment heads, or over the layer or head that is chosen. With a reader there are
    two hops: a token of the answer draws on those of the question, and these on the patches as they were read.
    """
    model, memory = finished.model, finished.attended
    _check("layer", layer, model.config.decoder.sublayers.count("c"))
    _check("head", head, model.config.decoder.heads)
    projected = finished.projected
    if memory is not finished.memory:
        projected = model.decoder.project(memory)
    decoded = model.decoder(finished.sequence, projected, explicit=True)
    if layer is None and head is None:
        attention = aligned(decoded.cross_attention, model.config.decoder.alignment_heads)
    else:
        stacked = torch.stack(decoded.cross_attention)  # (L, 1, H, T, S)
        stacked = stacked.mean(dim=0) if layer is None else stacked[layer]
        attention = stacked.mean(dim=1) if head is None else stacked[:, head]  # (1, T, S)
    of_text = memory.on_patches(attention)[0][finished.rows]
    if memory is finished.memory:
        return of_text, None
    assert memory.lift is not None
    segment = memory.image
    assert segment.grid is not None
    return of_text, memory.lift[0].unflatten(-1, segment.grid)


def aligned(attention: Sequence[Tensor], heads: Sequence[tuple[int, int]]) -> Tensor:
    """The mean of each layer's attention `(R, H, T, S)` over some heads, `(layer, head)`, or over all: `(R, T, S)`."""
    if not heads:
        return torch.stack([layer.mean(dim=1) for layer in attention]).mean(dim=0)
    return torch.stack([attention[layer][:, head] for layer, head in heads]).mean(dim=0)


def _check(name: str, value: int | None, count: int) -> None:
    if value is not None and not 0 <= value < count:
        raise ValueError(f"{name} must be 0 to {count - 1} for this model, not {value}")
