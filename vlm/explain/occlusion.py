"""Hiding: how much less likely a token is without some patches.

"Visualizing and understanding convolutional networks", Zeiler and Fergus, ECCV 2014; of the memory's slots in place of
pixels, so the image is not encoded again, and all that is hidden in turn is one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.hiding import Score, chosen_logprobs, falls, windows, with_slots
from vlm.explain.method import Choice, Looks
from vlm.model.memory import Memory, Segment


def occlusion(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """How many nats of log-probability a token loses as squares of patches are hidden; see `looks_by_hiding`."""
    return looks_by_hiding(finished, lambda logits: chosen_logprobs(logits, finished.ids))


@torch.inference_mode()
def looks_by_hiding(finished: Finished, score: Score) -> tuple[Looks, Looks | None]:
    """How much the score of each token falls as what is around each patch is hidden, as shares.

    A patch has what the windows around it cost, see `vlm.explain.hiding.windows`; where slots are not patches but draw
    on them, each is hidden by itself, and what it costs lies where it draws. Each segment of the memory is hidden
    whole, too, and the image and the others have shares by what that costs. Where a score rises nothing is lost. A
    token of the question was not predicted: what is lost is how far its last hidden state moves.
    """
    memory = finished.memory
    image, real = memory.image, memory.real[0]
    others = [s for s in memory.segments if s is not image and real[s.start : s.stop].any()]
    cells, around = _around_slots(memory)
    covers = torch.cat([cells, *(_whole(memory, s) for s in (image, *others) if others)])  # (W, S)

    def shared(lost: Tensor) -> Looks:
        at_cells, whole = lost[:, : len(cells)], lost[:, len(cells) :]
        slots = lost.new_zeros(len(lost), len(real))
        slots[:, image.start : image.stop] = at_cells @ around.T.to(lost.device)
        patches = memory.on_patches(slots[None])[0]
        patches = patches / patches.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        if not others:
            return Looks(patches, {})
        shares = whole / whole.sum(dim=1, keepdim=True).clamp(min=1e-12)
        of_others = dict(zip([s.name for s in others], shares.T[1:]))
        return Looks(patches * (1 - shares[:, 1:].sum(dim=1))[:, None, None], of_others)

    shown = real & ~covers.to(real.device)
    shown[~shown.any(dim=1)] = real  # without any slot there is nothing to look at
    variants = with_slots(finished, torch.cat([real[None], shown]))
    of_text, of_question = falls(finished, variants, score)
    return shared(of_text), None if of_question is None else shared(of_question)


def _around_slots(memory: Memory) -> tuple[Tensor, Tensor]:
    """Which slots are hidden in turn `(W, S)`, and the shares of what that costs that the image's slots have `(n, W)`.

    Where slots are no patches, each is hidden by itself.
    """
    image = memory.image
    assert image.grid is not None
    hidden = shares = torch.eye(image.stop - image.start)
    if memory.lift is None:
        hidden, shares = windows(image.grid)
    covers = torch.zeros(len(hidden), memory.tokens.shape[1], dtype=torch.bool)
    covers[:, image.start : image.stop] = hidden.bool()
    return covers, shares


def _whole(memory: Memory, segment: Segment) -> Tensor:
    """All slots of a segment, `(1, S)`."""
    slots = torch.arange(memory.tokens.shape[1])[None]
    return (segment.start <= slots) & (slots < segment.stop)
