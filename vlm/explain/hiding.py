"""A text run again with something of the image hidden, and what its tokens lose by that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.model.decoder import Projected

# Of each of the photo's sides, what is hidden at once: as much on any grid, and at least 3 cells.
WINDOW, OF = 3, 8
BUDGET = 16_000_000  # numbers, 64 MB in float32: what the logits of one batch may take

Score = Callable[[Tensor], Tensor]
"""Logits `(N, T + 1, V)` of N passes over a text's tokens and its end to scores of the tokens, `(N, T)`."""


def chosen_logprobs(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Log-probabilities `(N, T)` of a text's tokens, of logits `(N, T + 1, V)`."""
    logits = logits[:, : len(ids)].float()
    index = torch.tensor(ids, device=logits.device).expand(len(logits), -1)[..., None]
    return logits.gather(2, index)[..., 0] - logits.logsumexp(dim=-1)


def windows(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cells that are hidden in turn `(W, h * w)`, and the shares that cells have of what that costs `(h * w, W)`.

    A window is three eighths of the grid each way and at least 3 cells, or 1 on a grid that has no more. One of an odd
    number of cells has a cell in its middle, which has what it costs; one of an even number has the corner of four, and
    each has the mean of the windows around its corners.
    """
    small = min(grid) <= WINDOW
    down, across = (_along(n, 1 if small else max(WINDOW, round(n * WINDOW / OF))) for n in grid)
    covers = down[0][:, None, :, None] & across[0][None, :, None, :]  # (W_h, W_w, h, w)
    return covers.flatten(2).flatten(0, 1), torch.kron(down[1], across[1])


def _along(cells: int, size: int) -> tuple[Tensor, Tensor]:
    """The windows of a size along one side, `(W, cells)`, and the shares that cells have of them, `(cells, W)`."""
    even = 1 - size % 2
    starts = torch.arange(cells + even)[:, None] - size // 2
    places = torch.arange(cells)
    covers = (starts <= places) & (places < starts + size)
    shares = torch.eye(cells, cells + even)
    return covers, (shares + shares.roll(1, dims=1)) / 2 if even else shares


def with_slots(finished: Finished, shown: Tensor) -> Iterator[Projected]:
    """The memory's projection with the slots `shown` `(N, S)` alone, in batches, as views of what is there."""
    numbers = finished.sequence.shape[1] * finished.model.config.decoder.vocab_size
    for part in shown.split(max(1, BUDGET // numbers)):
        yield finished.projected.showing(part)


@torch.inference_mode()
def falls(
    finished: Finished, variants: Iterable[Projected], score: Score
) -> tuple[Tensor, Tensor | None]:
    """How much less tokens have in each of W variants than in the one before these: `(T, W)`, of at least 0.

    `variants` has `1 + W` rows in batches. For the tokens of the text it is the score; those of the prompt were not
    predicted, and it is how far their last hidden state moves. With a reader also for those of the question's prompt,
    `(Q, W)`, else None.
    """
    prompt = len(finished.prompt.ids)
    scores, states, asked = [], [], []
    for projected in variants:
        hidden, read = _passes(finished, projected)
        scores.append(score(_logits(finished, hidden)))
        states.append(hidden[:, :prompt])
        if read is not None:
            asked.append(read)
    by_score = torch.cat(scores)  # (1 + W, T)
    lost = (by_score[:1] - by_score[1:]).clamp(min=0)
    of_text = torch.cat([_moved(states), lost], dim=1).T
    return of_text, _moved(asked).T if asked else None


@torch.inference_mode()
def logits_of(finished: Finished) -> Tensor:
    """Logits `(T + 1, V)` of the text's tokens and its end, with nothing hidden."""
    return _logits(finished, _passes(finished, finished.projected)[0])[0]


def _logits(finished: Finished, hidden: Tensor) -> Tensor:
    return finished.model.decoder.logits(hidden[:, len(finished.prompt.ids) - 1 :])


def _passes(finished: Finished, projected: Projected) -> tuple[Tensor, Tensor | None]:
    """Hidden states `(N, T, D)` of the text over N memories, and with a reader those of its question."""
    model, count, read = finished.model, projected.images, None
    if model.reader is not None:
        memory = model.read(projected, [finished.asked.ids] * count)
        question = memory.segments[-1]
        projected = model.decoder.project(memory)
        read = memory.tokens[:, question.start : question.stop]
    return model.decoder(finished.sequence.expand(count, -1), projected).hidden, read


def _moved(states: list[Tensor]) -> Tensor:
    """How far hidden states `(1 + W, T, D)`, in batches, lie from the first, `(W, T)`."""
    every = torch.cat(states)
    return (every[1:] - every[:1]).norm(dim=-1)
