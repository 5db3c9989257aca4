"""Records to batches: one image with all of its texts, tokenised, in an order that only the seed decides."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.records import ImageRef, Record
from training.recipe import Source
from vlm.model import IGNORE_INDEX
from vlm.tokenizer import Tokenizer

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """One image with everything that is said of it: captions, or questions with their answers."""

    image: ImageRef
    records: tuple[Record, ...]
    source: Source

    @property
    def names_a_side(self) -> bool:
        texts = [text for r in self.records for text in (r.question or "", *r.texts)]
        return any(_SIDES.search(text) for text in texts)


@dataclass(frozen=True)
class Example:
    """One row to learn: the prompt's ids, and the ids that should follow it, `end` included."""

    prompt: tuple[int, ...]
    text: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """Rows of similar length: ids and targets `(R, T)`, and the image of each `(R,)`."""

    ids: Tensor
    targets: Tensor
    image: Tensor


@dataclass(frozen=True)
class Batch:
    """Images by key, which of them are mirrored, and their rows in a few chunks of similar length."""

    keys: tuple[str, ...]
    mirrored: tuple[bool, ...]
    chunks: tuple[Rows, ...]


def clean_text(text: str) -> str:
    """A text as the model should write it: single spaces, none before punctuation, no full stop."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.;:!?'])", r"\1", text)
    return text.rstrip(". ").replace("_", " ")


def group_by_image(records: Iterable[Record], source: Source) -> list[Group]:
    """The records of each image together, in the order in which the images first appear."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.image.key, []).append(record)
    return [Group(rs[0].image, tuple(rs), source) for rs in grouped.values()]


def examples(group: Group, tokenizer: Tokenizer, generator: random.Random) -> list[Example]:
    """The rows of one image for one epoch: every caption, or every question with one of its answers.

    Where annotators disagree, a question's answer is drawn from theirs, so over the epochs the target is their
    distribution.
    """
    rows = []
    for record in group.records:
        if record.question is None:
            for text in record.texts:
                ids = tokenizer.encode(clean_text(text))
                rows.append(Example(tuple(tokenizer.caption_prompt()), (*ids, tokenizer.end)))
        else:
            answer = clean_text(generator.choice(record.texts))
            prompt = tokenizer.question_prompt(clean_text(record.question))
            rows.append(Example(tuple(prompt), (*tokenizer.encode(answer), tokenizer.end)))
    return rows


def images_an_epoch(source: Source, images: int) -> int:
    """How many of a source's images an epoch draws: its share, but at least one."""
    return max(1, round(source.share * images))


def epoch_batches(
    groups: Sequence[Group],
    tokenizer: Tokenizer,
    batch_images: int,
    max_length: int,
    seed: int,
    epoch: int,
) -> Iterator[Batch]:
    """The batches of one epoch, a pure function of the seed and the epoch."""
    generator = random.Random(f"{seed}/{epoch}")
    order: list[Group] = []
    for source in dict.fromkeys(group.source for group in groups):
        own = [group for group in groups if group.source == source]
        order += generator.sample(own, images_an_epoch(source, len(own)))
    generator.shuffle(order)
    pending: list[tuple[str, bool, list[Example]]] = []
    for group in order:
        mirror = group.source.mirror and generator.random() < 0.5 and not group.names_a_side
        pending.append((group.image.key, mirror, examples(group, tokenizer, generator)))
        if len(pending) == batch_images:
            yield collate(pending, tokenizer.pad, max_length)
            pending = []
    if pending:
        yield collate(pending, tokenizer.pad, max_length)


def collate(
    images: Sequence[tuple[str, bool, list[Example]]], pad: int, max_length: int, chunks: int = 4
) -> Batch:
    """Images and their rows as tensors; sorting rows by length into chunks spares most of the padding."""
    rows = [(example, i) for i, (_, _, examples) in enumerate(images) for example in examples]
    rows.sort(key=lambda row: len(row[0].prompt) + len(row[0].text))
    size = -(-len(rows) // chunks)
    return Batch(
        tuple(key for key, _, _ in images),
        tuple(mirrored for _, mirrored, _ in images),
        tuple(
            _rows(rows[start : start + size], pad, max_length)
            for start in range(0, len(rows), size)
        ),
    )


def _rows(rows: Sequence[tuple[Example, int]], pad: int, max_length: int) -> Rows:
    length = min(max(len(e.prompt) + len(e.text) for e, _ in rows) - 1, max_length)
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), IGNORE_INDEX)
    for row, (example, _) in enumerate(rows):
        whole = torch.tensor(example.prompt + example.text)
        inputs, outputs = whole[:-1][:length], whole[1:].clone()
        outputs[: len(example.prompt) - 1] = IGNORE_INDEX  # the question is given, not learnt
        ids[row, : len(inputs)] = inputs
        targets[row, : len(inputs)] = outputs[:length]
    return Rows(ids, targets, torch.tensor([image for _, image in rows]))
