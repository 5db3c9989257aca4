"""Raw cross-attention as an explanation: what the decoder's heads looked at, as they are or in the mean."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm.explain.finished import Finished


@torch.inference_mode()
def attention_on_patches(
    finished: Finished, layer: int | None, head: int | None
) -> tuple[Tensor, Tensor | None]:
    """Attention of each token on the patches, `(T, h, w)`; see `vlm.explain.maps.Method`.

    The text is run once more, teacher-forced, with explicit probabilities (as OpenAI's whisper aligns words), which
    are averaged over layers and heads unless one is chosen. With a reader there are two hops: a token of the answer
    draws on those of the question, and these on the patches as they were read.
    """
    model, memory = finished.model, finished.attended
    _check("layer", layer, model.config.decoder.sublayers.count("c"))
    _check("head", head, model.config.decoder.heads)
    projected = finished.projected
    if memory is not finished.memory:
        projected = model.decoder.project(memory)
    decoded = model.decoder(finished.sequence, projected, explicit=True)
    attention = torch.stack(decoded.cross_attention)  # (L, 1, H, T, S)
    attention = attention.mean(dim=0) if layer is None else attention[layer]
    attention = attention.mean(dim=1) if head is None else attention[:, head]  # (1, T, S)
    of_text = memory.on_patches(attention)[0][finished.rows]
    if memory is finished.memory:
        return of_text, None
    assert memory.lift is not None
    segment = memory.image
    assert segment.grid is not None
    return of_text, memory.lift[0].unflatten(-1, segment.grid)


def _check(name: str, value: int | None, count: int) -> None:
    if value is not None and not 0 <= value < count:
        raise ValueError(f"{name} must be 0 to {count - 1} for this model, not {value}")
