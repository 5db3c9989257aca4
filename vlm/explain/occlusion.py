"""Hiding: how much less likely a token is without some patches.

"Visualizing and understanding convolutional networks", Zeiler and Fergus, ECCV 2014; of the memory's slots in place of
pixels, so the image is not encoded again, and all that is hidden in turn is one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.method import Choice, Looks
from vlm.model.decoder import Projected
from vlm.model.memory import Memory, Segment

WINDOW = 3  # cells a side
BUDGET = 16_000_000  # numbers, 64 MB in float32: what the logits of one pass may take

Score = Callable[[Tensor], Tensor]
"""Logits `(N, T + 1, V)` of N passes over a text's tokens and its end to scores of the tokens, `(N, T)`."""


def occlusion(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """How many nats of log-probability a token loses as squares of patches are hidden; see `looks_by_hiding`."""
    return looks_by_hiding(finished, lambda logits: chosen_logprobs(logits, finished.ids))


def chosen_logprobs(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Log-probabilities `(N, T)` of a text's tokens, of logits `(N, T + 1, V)`."""
    logits = logits[:, : len(ids)].float()
    index = torch.tensor(ids, device=logits.device).expand(len(logits), -1)[..., None]
    return logits.gather(2, index)[..., 0] - logits.logsumexp(dim=-1)


@torch.inference_mode()
def looks_by_hiding(finished: Finished, score: Score) -> tuple[Looks, Looks | None]:
    """How much the score of each token falls as what is around each patch is hidden, as shares.

    A patch has what the square of 3 x 3 around it costs; where slots are not patches but draw on them, each is hidden
    by itself, and what it costs lies where it draws. Each segment of the memory is hidden whole, too, and the image and
    the others have shares by what that costs. Where a score rises nothing is lost. A token of the question was not
    predicted: what is lost is how far its last hidden state moves.
    """
    memory = finished.memory
    image, real = memory.image, memory.real[0]
    others = [s for s in memory.segments if s is not image and real[s.start : s.stop].any()]
    cells = _around_cells(memory)
    covers = torch.cat([cells, *(_whole(memory, s) for s in (image, *others) if others)])  # (W, S)

    def shared(lost: Tensor) -> Looks:
        at_cells, whole = lost[:, : len(cells)], lost[:, len(cells) :]
        slots = lost.new_zeros(len(lost), len(real))
        slots[:, image.start : image.stop] = at_cells
        patches = memory.on_patches(slots[None])[0]
        patches = patches / patches.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        if not others:
            return Looks(patches, {})
        total = whole.sum(dim=1, keepdim=True)
        shares = torch.where(total > 0, whole / total.clamp(min=1e-12), 0)
        of_others = dict(zip([s.name for s in others], shares.T[1:]))
        return Looks(patches * (1 - shares[:, 1:].sum(dim=1))[:, None, None], of_others)

    of_text, of_question = falls(finished, covers, score)
    return shared(of_text), None if of_question is None else shared(of_question)


def falls(finished: Finished, covers: Tensor, score: Score) -> tuple[Tensor, Tensor | None]:
    """How much tokens lose as slots are hidden, by `covers` `(W, S)`: `(T, W)`, of at least 0.

    They are those of the prompt and the text and, with a reader, of the question's prompt, else None.
    """
    model, real = finished.model, finished.memory.real[0]
    shown = real & ~covers.to(real.device)
    shown[~shown.any(dim=1)] = real  # without any slot there is nothing to look at
    shown = torch.cat([real[None], shown])
    prompt = len(finished.prompt.ids)
    numbers = finished.sequence.shape[1] * model.config.decoder.vocab_size
    scores, states, asked = [], [], []
    for part in shown.split(max(1, BUDGET // numbers)):
        hidden, read = _passes(finished, part)
        scores.append(score(_logits(finished, hidden)))
        states.append(hidden[:, :prompt])
        if read is not None:
            asked.append(read)
    by_score = torch.cat(scores)  # (1 + W, T)
    lost = (by_score[:1] - by_score[1:]).clamp(min=0)
    of_text = torch.cat([_moved(states), lost], dim=1).T
    return of_text, _moved(asked).T if asked else None


def _moved(states: list[Tensor]) -> Tensor:
    """How far hidden states `(1 + W, T, D)`, in parts, lie from the first, `(W, T)`."""
    first, *rest = torch.cat(states).split([1, sum(map(len, states)) - 1])
    return (rest[0] - first).norm(dim=-1)


@torch.inference_mode()
def logits_with(finished: Finished, shown: Tensor) -> Tensor:
    """Logits `(N, T + 1, V)` of a text's tokens and its end with the slots `shown` `(N, S)`."""
    return _logits(finished, _passes(finished, shown)[0])


def _logits(finished: Finished, hidden: Tensor) -> Tensor:
    return finished.model.decoder.logits(hidden[:, len(finished.prompt.ids) - 1 :])


def _passes(finished: Finished, shown: Tensor) -> tuple[Tensor, Tensor | None]:
    """Hidden states `(N, T, D)` of the text, and those of a reader's question, with the slots `shown` `(N, S)`."""
    model, count = finished.model, len(shown)
    layers = tuple(
        (keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1))
        for keys, values in finished.projected.layers
    )
    projected, read = Projected(layers, shown), None
    if finished.question is not None and model.reader is not None:
        memory = model.read(projected, [finished.asked.ids] * count)
        projected, read = model.decoder.project(memory), memory.tokens
    return model.decoder(finished.sequence.expand(count, -1), projected).hidden, read


def _around_cells(memory: Memory) -> Tensor:
    """Which slots are hidden for each slot of the image: those around it, or itself where slots are no patches."""
    image = memory.image
    assert image.grid is not None
    height, width = image.grid
    count = image.stop - image.start
    covers = torch.zeros(count, memory.tokens.shape[1], dtype=torch.bool)
    reach = WINDOW // 2 if min(height, width) > WINDOW and memory.lift is None else 0
    slots = torch.arange(count)
    down = (slots // width)[:, None] - slots // width
    across = (slots % width)[:, None] - slots % width
    covers[:, image.start : image.stop] = (down.abs() <= reach) & (across.abs() <= reach)
    return covers


def _whole(memory: Memory, segment: Segment) -> Tensor:
    """All slots of a segment, `(1, S)`."""
    slots = torch.arange(memory.tokens.shape[1])[None]
    return (segment.start <= slots) & (slots < segment.stop)
