"""From an image's records to rows of ids, and from the rows of several images to a batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm.model.grounding import NO_PASSAGE, passage_ids
from vlm.model.model import IGNORE_INDEX
from vlm.prompts import QuestionError, caption_prompt, question_prompt, text_ids
from vlm.tokenizer import Tokenizer

from ..data.invented_facts import Sheet
from ..data.records import Record
from ..recipe.sources import Group
from .inputs import Inputs

# Rows of a batch are cut into this many chunks of similar length, which spares most of the padding.
CHUNKS = 4

NOTHING_TOLD = -1
UNKNOWN_PASSAGE = NO_PASSAGE - 1  # where nobody says in which passage an answer stands


@dataclass(frozen=True)
class Example:
    """One row to learn: the prompt's ids, the ids that should follow it, and its weight.

    `text` ends in the token `end`, but where it is longer than the decoder, and its end is not there to learn.
    `passage` is the one that it stands in, NO_PASSAGE where in none, or UNKNOWN_PASSAGE.
    """

    prompt: tuple[int, ...]
    text: tuple[int, ...]
    weight: float = 1.0
    passage: int = UNKNOWN_PASSAGE


@dataclass(frozen=True)
class Rows:
    """Rows of similar length: ids and targets `(R, T)`, the weight and the passage of each `(R,)`, and the images.

    These are one `(R,)` for each row, or fewer `(B,)`, of each of which R / B rows follow each other.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    image: Tensor
    passage: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """The same with a function of all that is `(R, ...)`."""
        return Rows(*map(function, vars(self).values()))


@dataclass(frozen=True)
class Batch:
    """Images by key and their rows.

    `images` are patches `(B, N, D)` of `grid`, or pixels `(B, 3, H, W)` where `grid` is None. `told` `(B,)` has the
    number of the name that an image's tags tell in place of its own, or `NOTHING_TOLD`; None stands for that of all.
    `passages` `(B, N, T)` are the tokens of what stands in documents beside each image; see `vlm/model/grounding.py`.
    """

    keys: tuple[str, ...]
    images: Tensor
    grid: tuple[int, int] | None
    chunks: tuple[Rows, ...]
    told: Tensor | None = None
    passages: Tensor | None = None

    @property
    def targets(self) -> int:
        """The number of tokens to learn."""
        return sum(int((rows.targets != IGNORE_INDEX).sum()) for rows in self.chunks)

    def to(self, device: torch.device) -> Batch:
        chunks = tuple(rows.map(lambda t: t.to(device)) for rows in self.chunks)
        images = self.images.to(device)
        told = None if self.told is None else self.told.to(device)
        passages = None if self.passages is None else self.passages.to(device)
        return replace(self, images=images, chunks=chunks, told=told, passages=passages)


def examples(
    group: Group, tokenizer: Tokenizer, max_length: int, generator: random.Random | None = None
) -> list[Example]:
    """The rows of one image: every caption, and every question with one of its answers.

    Where annotators disagree, a question's answer is drawn from theirs, so over the epochs the target is their
    distribution; without a `generator` it is the most frequent one.
    """
    pairs: list[tuple[Record, str]] = []
    for record in group.records:
        if record.question is None:
            pairs += [(record, text) for text in record.texts]
        else:
            answer = generator.choice(record.texts) if generator else mode(record.texts)
            pairs.append((record, answer))
    rows = (example(record, text, tokenizer, max_length) for record, text in pairs)
    return [row for row in rows if row is not None]


def asked_of(
    sheet: Sheet, tokenizer: Tokenizer, max_length: int, most: int
) -> tuple[list[Example], list[list[int]]]:
    """The rows of what is asked about documents, and their passages as ids, of at most `most` tokens each."""
    rows = []
    for asked in sheet.asked:
        try:
            prompt = caption_prompt(tokenizer)
            if asked.question is not None:
                prompt = question_prompt(tokenizer, asked.question, max_length)
        except QuestionError:
            continue  # too long for this decoder, or of no word
        text = (*text_ids(tokenizer, asked.answer), tokenizer.end)
        passage = NO_PASSAGE if asked.passage is None else asked.passage
        if asked.kind == "named":  # several passages may have the name
            passage = UNKNOWN_PASSAGE
        text = text[: max_length + 1 - len(prompt.ids)]
        rows.append(Example(prompt.ids, text, passage=passage))
    return rows, [tokenizer.encode(text)[:most] for text in sheet.passages]


def example(record: Record, text: str, tokenizer: Tokenizer, max_length: int) -> Example | None:
    """The row of one of a record's texts, for a decoder of `max_length` tokens.

    None where there is nothing to learn: the question cannot be read, or the text has no word.
    """
    try:
        prompt = prompt_of(record, tokenizer, max_length)
    except QuestionError:
        return None
    if not (ids := text_ids(tokenizer, text)):
        return None
    # The decoder reads all but the last token, whose place is one more.
    return Example(prompt, (*ids, tokenizer.end)[: max_length + 1 - len(prompt)], record.weight)


def prompt_of(record: Record, tokenizer: Tokenizer, max_length: int) -> tuple[int, ...]:
    """The ids that a record's texts continue. Raises QuestionError as `question_prompt` does."""
    if record.question is None:
        return caption_prompt(tokenizer).ids
    return question_prompt(tokenizer, record.question, max_length).ids


def mode(texts: Sequence[str]) -> str:
    """The most frequent text, the first of several."""
    return max(texts, key=list(texts).count)


def make_batch(
    keys: Sequence[str],
    images: Sequence[Tensor],
    rows: Sequence[Sequence[Example]],
    inputs: Inputs,
    pad: int,
    told: Sequence[int] = (),
    passages: Sequence[Sequence[Sequence[int]]] = (),
) -> Batch:
    """A batch of what `inputs` loaded and each image's rows; without any image it is one blank image."""
    stacked = torch.stack(list(images) or [inputs.blank])
    names = torch.tensor(told) if told else None
    if not passages:
        return Batch(tuple(keys), stacked, inputs.grid, collate(rows, pad), names)
    chunks = collate_images(rows, pad)
    return Batch(tuple(keys), stacked, inputs.grid, chunks, names, passage_ids(passages))


def collate(rows: Sequence[Sequence[Example]], pad: int) -> tuple[Rows, ...]:
    """The rows of each image as padded chunks.

    Without any row there is one of nothing but padding, so that every process of a run has its part in a step.
    """
    flat = [(example, image) for image, examples in enumerate(rows) for example in examples]
    if not flat:
        flat = [(Example((pad, pad), ()), 0)]
    flat.sort(key=lambda row: len(row[0].prompt) + len(row[0].text))
    size = -(-len(flat) // CHUNKS)
    starts = range(0, len(flat), size)
    return tuple(_chunk(flat[start : start + size], pad) for start in starts)


def collate_images(rows: Sequence[Sequence[Example]], pad: int) -> tuple[Rows, ...]:
    """The same with an image's rows side by side, so that its memory, long beside passages, is not copied for each.

    Where an image of a chunk has fewer rows than others, rows of padding make up for them.
    """

    def longest(image: int) -> int:
        return max((len(e.prompt) + len(e.text) for e in rows[image]), default=0)

    blank = Example((pad, pad), ())
    order = sorted(range(len(rows)), key=longest)
    size = -(-len(order) // CHUNKS)
    chunks = []
    for start in range(0, len(order), size):
        images = order[start : start + size]
        count = max(1, *(len(rows[image]) for image in images))
        filled = [
            (example, image)
            for image in images
            for example in (*rows[image], *[blank] * (count - len(rows[image])))
        ]
        chunks.append(replace(_chunk(filled, pad), image=torch.tensor(images)))
    return tuple(chunks)


def _chunk(rows: Sequence[tuple[Example, int]], pad: int) -> Rows:
    length = max(len(e.prompt) + len(e.text) for e, _ in rows) - 1
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), IGNORE_INDEX)
    for row, (example, _) in enumerate(rows):
        whole = torch.tensor(example.prompt + example.text)
        ids[row, : len(whole) - 1] = whole[:-1]
        start = len(example.prompt) - 1  # the question is given, not learnt
        targets[row, start : len(whole) - 1] = whole[start + 1 :]
    weights = torch.tensor([example.weight for example, _ in rows])
    images = torch.tensor([image for _, image in rows])
    return Rows(ids, targets, weights, images, torch.tensor([e.passage for e, _ in rows]))
