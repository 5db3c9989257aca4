"""What a model writes about some images, with a map for each word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlm.answers import Answer
from vlm.captioner import Captioner
from vlm.images import ImageError

from ..data.records import DataError, Record
from ..recipe.sources import Group
from .predict import question_problem, with_all_captions


def samples(captioner: Captioner, groups: Iterable[Group]) -> Iterator[tuple[Record, Answer]]:
    """A caption of each image, or where it has none the answer to its first question that can be read.

    Images that cannot be read or asked about, and texts without a word, are left out.
    """
    for group in groups:
        captions = [record for record in group.records if record.question is None]
        records = with_all_captions(captions) or group.records
        record = next((r for r in records if not question_problem(captioner, r)), None)
        if record is None:
            continue
        try:
            image = captioner.encode(group.image.read())
        except (ImageError, DataError):
            continue
        answer = image.caption() if record.question is None else image.ask(record.question)
        if answer.text:
            yield record, answer
