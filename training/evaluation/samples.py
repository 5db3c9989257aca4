"""What a model writes about some images, with a map for each word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlm.captioner import Answer, Captioner
from vlm.images import ImageError
from vlm.prompts import clean_text

from ..data.records import DataError
from ..recipe.sources import Group


def answers(captioner: Captioner, groups: Iterable[Group]) -> Iterator[tuple[Group, Answer]]:
    """A caption of each image, or where it has none the answer to its first question.

    Images that cannot be read, and texts without a word, are left out.
    """
    for group in groups:
        first = group.records[0]
        try:
            image = captioner.encode(group.image.read())
        except (ImageError, DataError):
            continue
        question = first.question and clean_text(first.question)
        answer = image.ask(question) if question else image.caption()
        if answer.text:
            yield group, answer
