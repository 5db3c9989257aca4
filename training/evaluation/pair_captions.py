"""What captions of similar photos do to a caption: names that it takes from them, and what it takes in vain."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vlm.captioner import Captioner
from vlm.documents.photo_pairs import PhotoPairs
from vlm.encoded_image import EncodedImage
from vlm.passages_beside import as_passages, first_that_fit

from ..data.invented_facts import Sheet
from ..data.named_captions import Pool, captions_by_thing, named_sheet
from ..data.records import DataError, Record
from .invented_answers import PASSAGES, Share
from .metrics.captions import cider_of_each
from .metrics.statistics import Difference, Metric, paired_difference

# How many captions beside a photo name its own thing, and how many another thing that it does not show.
NAMED = {
    "six name what it shows: its name is said": (6, 0),
    "two of eight do, the others something else: its name is said": (2, 6),
    "one of eight does, the others something else: its name is said": (1, 7),
}
KNOWN = 1_000  # photos with captions that a user may have
ELSEWHERE = "most name something that it does not show: its name is not said"


@dataclass(frozen=True)
class PairFigures:
    """Shares of photos; CIDEr-D of captions of photos alone, and what those beside captions of similar photos add."""

    shares: tuple[Share, ...]
    alone: float
    difference: Difference


def measure_pairs(
    captioner: Captioner,
    photos: Iterable[Sequence[Record]],
    known: Sequence[Sequence[Record]],
    count: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> PairFigures:
    """Caption `count` photos beside captions of others, drawn from the `known` records, with names that are held out.

    `photos` and `known` are the records of one image each, with captions; a photo where nothing has a name is passed
    over. Beside captions without names, those of the most similar of KNOWN known photos, CIDEr-D is measured. Raises
    DataError where so few photos are left that it has no figure.
    """
    generator = random.Random(seed)
    pool = captions_by_thing(record for own in known for record in own)
    kept = generator.sample(list(known), min(KNOWN, len(known)))
    hits: dict[str, list[bool]] = {}
    references: dict[str, list[str]] = {}
    alone: dict[str, str] = {}
    beside: dict[str, str] = {}
    with PhotoPairs.open(":memory:", captioner.blank_vector, create=True) as store:  # of SQLite's
        for own in kept:
            vector = captioner.encode(own[0].image.read()).vector
            store.add(own[0].image.key, vector, own[0].texts[0])
        progress(f"{len(store)} photos are known")
        for records in photos:
            if len(references) == count:
                break
            image = captioner.encode(records[0].image.read())
            drawn = {
                name: _sheet(records, pool, generator, *numbers) for name, numbers in NAMED.items()
            }
            if any(sheet is None for sheet in drawn.values()):
                continue
            for name, sheet in drawn.items():
                hits.setdefault(name, []).append(_says(image, sheet))
            elsewhere = _sheet(records, pool, generator, 0, 6)
            hits.setdefault(ELSEWHERE, []).append(not _says(image, elsewhere))
            key = records[0].image.key
            references[key] = [text for r in records if r.question is None for text in r.texts]
            alone[key] = image.caption().text
            beside[key] = image.recall(store).caption().text
            if len(references) % 50 == 0:
                progress(f"{len(references)} of {count} photos")
    scores = [cider_of_each(texts, references) for texts in (alone, beside) if texts]
    if len(scores) < 2 or scores[0] is None or scores[1] is None:
        raise DataError(
            f"{len(references)} photos have captions that name something once; give two or more, with unlike captions"
        )
    first, second = Metric(scores[0]), Metric(scores[1])
    shares = tuple(Share.of(name, own) for name, own in hits.items())
    return PairFigures(shares, first.value, paired_difference(first, second))


def _sheet(
    records: Sequence[Record], pool: Pool, generator: random.Random, alike: int, others: int
) -> Sheet | None:
    return named_sheet(
        records, pool, generator, PASSAGES, held_out=True, alike=alike, others=others
    )


def _says(image: EncodedImage, sheet: Sheet | None) -> bool:
    """Whether the caption beside a sheet's passages has the name that its first row is about."""
    assert sheet is not None
    fact = sheet.asked[0].fact
    assert fact is not None
    captioner = image.captioner
    fitting = first_that_fit(as_passages(sheet.passages), captioner.tokenizer, captioner.reading)
    text = image.beside(fitting).caption().text
    return re.search(rf"\b{fact[2]}\b", text, re.IGNORECASE) is not None
