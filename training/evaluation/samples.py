"""What a model writes about some images, with a map for each word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlm.answers import Answer
from vlm.captioner import Captioner
from vlm.images import ImageError

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
        answer = image.ask(first.question) if first.question else image.caption()
        if answer.text:
            yield group, answer
