"""From an image's records to rows of ids, and from the rows of several images to a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm.model.model import IGNORE_INDEX
from vlm.prompts import caption_prompt, question_prompt, text_ids
from vlm.tokenizer import Tokenizer

from ..recipe.sources import Group
from .inputs import Inputs

# Rows of a batch are cut into this many chunks of similar length, which spares most of the padding.
CHUNKS = 4


@dataclass(frozen=True)
class Example:
    """One row to learn: the prompt's ids, the ids that should follow it, `end` included, and its weight."""

    prompt: tuple[int, ...]
    text: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Rows:
    """Rows of similar length: ids and targets `(R, T)`, weights `(R,)`, and the image of each `(R,)`."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    image: Tensor

    def to(self, device: torch.device) -> Rows:
        moved = (t.to(device) for t in (self.ids, self.targets, self.weights, self.image))
        return Rows(*moved)


@dataclass(frozen=True)
class Batch:
    """Images by key and their rows.

    `images` are patches `(B, N, D)` of `grid`, or pixels `(B, 3, H, W)` where `grid` is None.
    """

    keys: tuple[str, ...]
    images: Tensor
    grid: tuple[int, int] | None
    chunks: tuple[Rows, ...]

    @property
    def targets(self) -> int:
        """The number of tokens to learn."""
        return sum(int((rows.targets != IGNORE_INDEX).sum()) for rows in self.chunks)

    def to(self, device: torch.device) -> Batch:
        chunks = tuple(rows.to(device) for rows in self.chunks)
        return replace(self, images=self.images.to(device), chunks=chunks)


def examples(
    group: Group, tokenizer: Tokenizer, generator: random.Random | None = None
) -> list[Example]:
    """The rows of one image: every caption, and every question with one of its answers.

    Where annotators disagree, a question's answer is drawn from theirs, so over the epochs the target is their
    distribution; without a `generator` it is the most frequent one.
    """
    rows = []
    for record in group.records:
        if record.question is None:
            for text in record.texts:
                prompt = caption_prompt(tokenizer).ids
                ids = text_ids(tokenizer, text)
                rows.append(Example(prompt, (*ids, tokenizer.end), record.weight))
        else:
            answer = generator.choice(record.texts) if generator else mode(record.texts)
            prompt = question_prompt(tokenizer, record.question).ids
            ids = text_ids(tokenizer, answer)
            rows.append(Example(prompt, (*ids, tokenizer.end), record.weight))
    return rows


def mode(texts: Sequence[str]) -> str:
    """The most frequent text, the first of several."""
    return max(texts, key=list(texts).count)


def make_batch(
    keys: Sequence[str],
    images: Sequence[Tensor],
    rows: Sequence[Sequence[Example]],
    inputs: Inputs,
    pad: int,
    max_length: int,
) -> Batch:
    """A batch of what `inputs` loaded and each image's rows; without any image it is one blank image."""
    stacked = torch.stack(list(images) or [inputs.blank])
    return Batch(tuple(keys), stacked, inputs.grid, collate(rows, pad, max_length))


def collate(rows: Sequence[Sequence[Example]], pad: int, max_length: int) -> tuple[Rows, ...]:
    """The rows of each image as padded chunks; what is longer than `max_length` is cut.

    Without any row there is one of nothing but padding, so that every process of a run has its part in a step.
    """
    flat = [(example, image) for image, examples in enumerate(rows) for example in examples]
    if not flat:
        flat = [(Example((pad, pad), ()), 0)]
    flat.sort(key=lambda row: len(row[0].prompt) + len(row[0].text))
    size = -(-len(flat) // CHUNKS)
    starts = range(0, len(flat), size)
    return tuple(_chunk(flat[start : start + size], pad, max_length) for start in starts)


def _chunk(rows: Sequence[tuple[Example, int]], pad: int, max_length: int) -> Rows:
    length = min(max(len(e.prompt) + len(e.text) for e, _ in rows) - 1, max_length)
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), IGNORE_INDEX)
    for row, (example, _) in enumerate(rows):
        whole = torch.tensor(example.prompt + example.text)
        inputs, outputs = whole[:-1][:length], whole[1:].clone()
        outputs[: len(example.prompt) - 1] = IGNORE_INDEX  # the question is given, not learnt
        ids[row, : len(inputs)] = inputs
        targets[row, : len(inputs)] = outputs[:length]
    weights = torch.tensor([example.weight for example, _ in rows])
    return Rows(ids, targets, weights, torch.tensor([image for _, image in rows]))
