"""A recipe's sources read from disk: images with all that is said of them, to learn from and to validate on."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlm.prompts import clean_text

from ..data.readers import read
from ..data.records import DataError, ImageRef, Record
from ..data.report import Broken, Report
from ..data.synthetic import questions_from_captions
from .recipe import Recipe, RecipeError, Source, Validation

_SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """One image with everything that is said of it: captions, or questions with their answers."""

    image: ImageRef
    records: tuple[Record, ...]
    source: Source

    @property
    def texts(self) -> Iterator[str]:
        return (text for r in self.records for text in (r.question, *r.texts) if text)

    @property
    def names_a_side(self) -> bool:
        return any(_SIDES.search(text) for text in self.texts)


@dataclass(frozen=True)
class Data:
    """What a run learns from and what it is validated on, one list of groups for each source.

    `reports` count and name each source's broken records, and later its broken images.
    """

    train: list[list[Group]]
    dev: list[list[Group]]
    reports: list[Report]

    @property
    def all_train(self) -> list[Group]:
        return [group for groups in self.train for group in groups]

    @property
    def all_dev(self) -> list[Group]:
        return [group for groups in self.dev for group in groups]

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any image's name or any text, but not with the folder they lie in."""
        digest = hashlib.sha256()
        for groups in (*self.train, *self.dev):
            for group in groups:
                lines = [_name(group.image), *group.texts]
                digest.update("\n".join(lines).encode("utf-8", "surrogateescape") + b"\0")
            digest.update(b"\1")
        return digest.hexdigest()[:16]


def read_data(recipe: Recipe, folder: Path) -> Data:
    """Read every source; `folder` stands for `{data}` in their paths.

    Raises DataError when a source is missing or too much of it is broken, RecipeError when the recipe validates
    on dev images and no source has any, or learns captions by their reward and there are none.
    """
    data = Data([], [], [])
    for source in recipe.sources:
        report = Report(source.broken)
        train = group_by_image(_read(source, folder, source.split, report), source)
        if not train:
            raise DataError(f"{source.path} has no records in its split {source.split}.")
        if source.dev_share:
            dev = [group for group in train if _chosen(group.image, source.dev_share)]
            train = [group for group in train if not _chosen(group.image, source.dev_share)]
        else:
            dev = []
            if source.dev is not None:
                dev = group_by_image(_read(source, folder, source.dev, report), source)
        data.train.append(train)
        data.dev.append(dev)
        data.reports.append(report)
    learnt = {group.image.key for group in data.all_train}
    for groups in data.dev:  # one source's dev image may be another's to learn from
        groups[:] = [group for group in groups if group.image.key not in learnt]
    _check_validation(recipe.validation, data.all_dev)
    if recipe.objective == "scst" and not _can_weigh_words(data.all_train):
        raise RecipeError("objective scst needs two training images that differ in their captions")
    return data


def dev_order(groups: Iterable[Group]) -> list[Group]:
    """Dev images in the one order in which they are validated on, so that the first few are of all sources."""
    ordered = list(groups)
    random.Random(0).shuffle(ordered)
    return ordered


def _check_validation(validation: Validation, dev: Sequence[Group]) -> None:
    """Raise RecipeError when there is nothing to measure the metric on."""
    metric = validation.metric
    if metric != "last" and not dev:
        raise RecipeError(
            f"validation.metric {metric} needs dev images and no source has any; give one a dev_share, or set "
            "validation.metric=last"
        )
    written = dev_order(dev)[: validation.images]
    among = "the dev images" if len(written) == len(dev) else f"the first {len(written)} dev images"
    if metric == "accuracy" and all(r.question is None for g in written for r in g.records):
        raise RecipeError(f"validation.metric accuracy needs questions among {among}")
    if metric == "CIDEr" and not _can_weigh_words(written):
        raise RecipeError(
            f"validation.metric CIDEr needs two images among {among} that differ in their captions"
        )


def _can_weigh_words(groups: Sequence[Group]) -> bool:
    """Whether CIDEr can: a word that the captions of all images have weighs nothing."""
    captions = (
        frozenset(
            clean_text(text).lower()
            for r in group.records
            if r.question is None
            for text in r.texts
        )
        for group in groups
    )
    return len({texts for texts in captions if texts}) > 1


def _read(source: Source, folder: Path, split: str, report: Report) -> Iterator[Record]:
    path = source.path.replace("{data}", str(folder))
    images = None if source.images is None else source.images.replace("{data}", str(folder))
    records = read(path, source.format, split, images, report, **source.options)
    return made_questions(records) if source.questions else records


def made_questions(records: Iterable[Record]) -> Iterator[Record]:
    """Questions from captions of images that have several: what one caption leaves out may well be there."""
    captions: dict[str, list[Record]] = {}
    for record in records:
        if record.question is None:
            captions.setdefault(record.image.key, []).append(record)
    merged = [
        replace(of_image[0], texts=tuple(text for record in of_image for text in record.texts))
        for of_image in captions.values()
    ]
    return iter(questions_from_captions(record for record in merged if len(record.texts) > 2))


def group_by_image(records: Iterable[Record], source: Source) -> list[Group]:
    """The records of each image together, in the order in which the images first appear."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        if record.texts:  # a test server's secret answers teach nothing
            grouped.setdefault(record.image.key, []).append(record)
    return [Group(rs[0].image, tuple(rs), source) for rs in grouped.values()]


def drop_unreadable(data: Data, unreadable: dict[str, str]) -> None:
    """Take the images out that cannot be read, `unreadable` from key to reason, and report them."""
    for train, dev, report in zip(data.train, data.dev, data.reports):
        for group in (*train, *dev):
            if group.image.key in unreadable:
                report.skip(Broken(str(group.image), unreadable[group.image.key]))
        for groups in (train, dev):
            groups[:] = [group for group in groups if group.image.key not in unreadable]
        report.check()


def texts_of(groups: Sequence[Group]) -> Iterator[str]:
    """All questions, captions and answers of some images."""
    return (text for group in groups for text in group.texts)


def _chosen(image: ImageRef, share: float) -> bool:
    """Whether an image belongs to the dev share: by its name alone, so that it does wherever the folder lies."""
    name = _name(image).encode("utf-8", "surrogateescape")
    return int(hashlib.sha256(name).hexdigest()[:8], 16) < share * 2**32


def _name(image: ImageRef) -> str:
    return image.member or (image.key if image.data is not None else Path(image.path).name)
