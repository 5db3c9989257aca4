"""Texts that do not fit the decoder, counted and named before a run begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

from vlm.prompts import QuestionError, text_ids
from vlm.tokenizer import Tokenizer

from ..data.records import DataError
from ..recipe.recipe import Recipe
from ..recipe.sources import Data, Group
from .examples import prompt_of


@dataclass
class Fit:
    """How the texts of some images fit the decoder, and which images have something to learn.

    `lengths` are of the texts that are cut, in tokens with their prompts, each with its place.
    """

    learnt: list[Group] = field(default_factory=list)
    texts: int = 0
    questions: int = 0
    lengths: list[tuple[int, str]] = field(default_factory=list)
    wordless: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def fit(groups: Iterable[Group], tokenizer: Tokenizer, max_length: int) -> Fit:
    """Measure the texts of some images against a decoder of `max_length` tokens."""
    found = Fit()

    @cache  # answers are mostly the same few
    def tokens(text: str) -> int:
        return len(text_ids(tokenizer, text))

    for group in groups:
        learnt = 0
        for record in group.records:
            found.questions += record.question is not None
            found.texts += len(record.texts)
            try:
                prompt = prompt_of(record, tokenizer, max_length)
            except QuestionError as error:
                found.unread.append(f"{record.image}: {error}")
                continue
            for text in record.texts:
                learnt += tokens(text) > 0
                if not tokens(text):
                    found.wordless.append(str(record.image))
                elif (length := len(prompt) + tokens(text)) > max_length:
                    found.lengths.append((length, str(record.image)))
        if learnt:
            found.learnt.append(group)
    return found


def fit_to_decoder(data: Data, recipe: Recipe, tokenizer: Tokenizer, max_length: int) -> list[str]:
    """Leave out the images that teach nothing, and return sentences on what of each source does not fit.

    A text that is too long is cut, and its end is not learnt. A question that is too long, or has no word, is not
    learnt, and on dev it counts as wrong. Raises DataError where nothing is left to learn, or to measure the loss on.
    """
    told, judged = [], False
    for source, train, dev in zip(recipe.sources, data.train, data.dev, strict=True):
        learning, judging = (fit(groups, tokenizer, max_length) for groups in (train, dev))
        train[:] = learning.learnt
        judged |= bool(judging.learnt)
        sentences = [
            *_sentences(learning, max_length, "", "cannot be read and are left out"),
            *_sentences(judging, max_length, "dev ", "cannot be read and count as wrong"),
        ]
        told += [f"{source.path}: {sentence}" for sentence in sentences]
    if not data.all_train:
        raise DataError(f"there is nothing to learn: {'; '.join(told)}")
    if recipe.validation.metric == "loss" and data.all_dev and not judged:
        raise DataError(f"there is no dev text to measure the loss on: {'; '.join(told)}")
    return told


def _sentences(found: Fit, max_length: int, split: str, unread: str) -> Iterator[str]:
    if found.lengths:
        longest, place = max(found.lengths)
        yield (
            f"{len(found.lengths):,} of {found.texts:,} {split}texts are cut at {max_length} tokens "
            f"(decoder.max_length), and their ends do not count; the longest, of {place}, takes {longest}"
        )
    if found.wordless:
        yield (
            f"{len(found.wordless):,} of {found.texts:,} {split}texts have no word and teach nothing; "
            f"the first is of {found.wordless[0]}"
        )
    if found.unread:
        yield (
            f"{len(found.unread):,} of {found.questions:,} {split}questions {unread}; "
            f"the first: {found.unread[0]}"
        )
