"""What a model says of records: captions of their images, or answers to their questions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from PIL import Image

from vlm.answers import Answer
from vlm.captioner import BATCH, Captioner
from vlm.encoded_image import EncodedImage
from vlm.images import ImageError
from vlm.judgement import Verdict
from vlm.options import CAPTION, choose
from vlm.prompts import QuestionError

from ..data.records import DataError, Record
from ..data.report import Broken, Report

DEFAULTS: Mapping[str, Any] = MappingProxyType({})  # the task's own way to choose words


@dataclass(frozen=True)
class Prediction:
    """A caption, or the answer to the record's question, with its probability from 0 to 1.

    `likelihood` is the mean probability of a token (geometric), `verdict` how far the model says to trust the text.
    `uncalibrated` is an answer's probability without the checkpoint's temperature, where it has one. `problem` says why
    there is no text, where the model could not read the question. `ms` are those of encoding and decoding.
    """

    record: Record
    text: str
    confidence: float
    problem: str = ""
    uncalibrated: float | None = None
    likelihood: float = 0.0
    verdict: Verdict | None = None
    ms: float = 0.0


def predict_captions(
    captioner: Captioner,
    records: Iterable[Record],
    report: Report,
    search: Mapping[str, Any] = DEFAULTS,
    blind: bool = False,
) -> Iterator[Prediction]:
    """Caption each record's image; `search` has options of `vlm.Options`.

    An image that cannot be read has no prediction and goes into `report`. `blind` is for a model
    that was trained without images: see `blind_image`. Raises DataError when too many are broken.
    """
    options = choose(CAPTION, search)
    for images, batch in _encoded(captioner, [[r] for r in records], report, blind):
        answers = captioner.write(images, None, options)
        for answer, [record] in zip(answers, batch, strict=True):
            yield _prediction(record, answer)


def predict_answers(
    captioner: Captioner,
    records: Iterable[Record],
    report: Report,
    search: Mapping[str, Any] = DEFAULTS,
    blind: bool = False,
) -> Iterator[Prediction]:
    """Answer each record's question; the questions of one image share its encoding.

    A question that is too long for the model, or empty, is answered with no words. Images,
    `search` and `blind` are as in `predict_captions`.
    """
    for images, batch in _encoded(captioner, by_image(records), report, blind):
        for image, group in zip(images, batch, strict=True):
            problems = {r: problem for r in group if (problem := question_problem(captioner, r))}
            asked = [record for record in group if record not in problems]
            answers = image.ask_all([r.question or "" for r in asked], **search) if asked else []
            answer_of = dict(zip(asked, answers, strict=True))
            for record in group:
                if record in problems:
                    yield Prediction(record, "", 0.0, problems[record])
                else:
                    answer = answer_of[record]
                    # An answer's score is its log-probability before calibration.
                    own = math.exp(answer.score) if captioner.calibration(True) != 1 else None
                    yield _prediction(record, answer, own, len(asked))


def _prediction(
    record: Record, answer: Answer, uncalibrated: float | None = None, sharing: int = 1
) -> Prediction:
    """What an answer says of a record, where so many of them share the image's encoding."""
    likelihood = math.exp(sum(answer.logprobs) / len(answer.logprobs))
    return Prediction(
        record,
        answer.text,
        answer.confidence,
        uncalibrated=uncalibrated,
        likelihood=likelihood,
        verdict=answer.verdict,
        ms=answer.ms["encode"] / sharing + answer.ms["decode"],
    )


def by_image(records: Iterable[Record]) -> list[list[Record]]:
    """The records of each image together, in the order in which the images first appear."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.image.key, []).append(record)
    return list(groups.values())


def with_all_captions(records: Iterable[Record]) -> list[Record]:
    """One record an image, with all the captions that the source keeps in records of their own."""
    return [
        replace(group[0], texts=tuple(text for record in group for text in record.texts))
        for group in by_image(records)
    ]


def blind_image(captioner: Captioner) -> EncodedImage:
    """What a model that was trained with zeros in place of patches sees, whatever the image.

    The question-only baseline is a model of its own, trained by a recipe with `blind: true`. A
    model that was trained with images gets something it has never seen here, so its figures
    without images say little about what language alone can do.
    """
    height, width = captioner.preprocess.size
    photo = captioner.read(Image.new("RGB", (width, height)))
    memory, projected = captioner.blind
    return EncodedImage(captioner, photo, memory, projected, encode_ms=0.0)


def _encoded(
    captioner: Captioner, groups: Sequence[list[Record]], report: Report, blind: bool
) -> Iterator[tuple[list[EncodedImage], Sequence[list[Record]]]]:
    """The images that can be read, encoded a batch at a time, and the records of each."""
    unseen = blind_image(captioner) if blind else None
    for start in range(0, len(groups), BATCH):
        batch = groups[start : start + BATCH]
        if unseen is not None:
            yield [unseen] * len(batch), batch
            continue
        photos, kept = [], []
        for group in batch:
            ref = group[0].image
            try:
                photos.append(captioner.read(ref.read()))
            except (ImageError, DataError) as error:
                report.skip(Broken(str(ref), str(error)))
                continue
            report.good += 1
            kept.append(group)
        if kept:
            yield captioner.encode_all(photos), kept
    report.check()


def question_problem(captioner: Captioner, record: Record) -> str:
    """Why the model cannot be asked what a record asks; empty where it can."""
    try:
        captioner.prompt(record.question)
    except QuestionError as error:
        return str(error)
    return ""
