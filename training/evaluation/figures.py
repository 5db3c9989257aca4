"""The figures of a model card: what is measured, on which data, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlm.captioner import Captioner
from vlm.images import ImageError

from ..data.readers import read
from ..data.records import DataError, Record
from ..data.report import Broken, Report
from .assess import Model, assess, select
from .predict import by_image
from .question_prior import predict_by_prior
from .scoring import Evaluation, evaluate_answers

CAPTIONS = {
    "CIDEr": "CIDEr-D",
    "BLEU-4": "BLEU-4",
    "ROUGE-L": "ROUGE-L",
    "CHAIR-s": "CHAIR-s: captions that name an object no reference has",
    "CHAIR-i": "CHAIR-i: such objects among all named",
}
OFFICIAL = {"accuracy": "official accuracy"}
EXACT = {"accuracy": "accuracy"}
ERROR = {"ECE": "ECE of confidence", "ECE by chance": "the same of a perfectly calibrated model"}

SHAPES = frozenset({"circle", "rectangle", "triangle"})
# Of a photo none of them asks for a shape.
PLAIN_QUESTIONS = (
    "what is in the picture?",
    "what is this?",
    "what animal is it?",
    "what is on the left?",
)


@dataclass(frozen=True)
class Figure:
    """One cell of the table: `value` in points with its 95 % interval `(low, high)`, or None and a `note` why not."""

    row: str
    data: str
    split: str
    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""

    @property
    def points(self) -> str:
        """As the table has it."""
        if self.value is None:
            return self.note
        told = f"{self.value:.1f}"
        if self.interval is not None:
            told += f" ({self.interval[0]:.1f} to {self.interval[1]:.1f})"
        return f"{told}; {self.note}" if self.note else told


@dataclass(frozen=True)
class Request:
    """What a row is measured with: a model, the folder of all datasets, and a question-only model where there is one.

    `limit` keeps the first images or questions of each row; `pictures` takes the images that cannot be read.
    """

    model: Model
    data: Path
    question_only: Model | None = None
    limit: int | None = None
    pictures: Report = field(default_factory=lambda: Report(limit=1))

    def records(self, path: str, format: str, split: str, task: str) -> list[Record]:
        """A split's records of a task. Raises DataError where the dataset is not there."""
        place = path if format == "easy_vqa" else str(self.data / path)
        rows = Report()
        found = select(list(read(place, format, split, report=rows)), task, self.limit, place)
        if rows.broken:
            raise DataError(f"{place}: {rows.summary()}")
        return found


@dataclass(frozen=True)
class Row:
    """Some figures of one split of a dataset; `figures` are metrics of `scoring.Evaluation` under the card's names."""

    data: str
    path: str
    format: str
    split: str
    task: str
    figures: Mapping[str, str]

    def measure(self, name: str, request: Request) -> list[Figure]:
        records = request.records(self.path, self.format, self.split, self.task)
        (result,) = assess([request.model], self.task, records, request.pictures, None, False)
        return self.written(name, result.evaluation)

    def written(self, name: str, evaluation: Evaluation) -> list[Figure]:
        """An evaluation's figures."""
        unit = "photos" if self.task == "caption" else "questions"
        split = f"{self.split}, {len(evaluation.items):,} {unit}"
        made = []
        for metric, title in self.figures.items():
            interval = evaluation.intervals.get(metric)
            made.append(
                Figure(
                    name,
                    self.data,
                    split,
                    title,
                    evaluation.metrics.get(metric),
                    None if interval is None else (interval.low, interval.high),
                    "" if metric in evaluation.metrics else _why_not(metric, evaluation),
                )
            )
        return made


@dataclass(frozen=True)
class PriorRow(Row):
    """Answers by the question's first words, as the training split answers them."""

    def measure(self, name: str, request: Request) -> list[Figure]:
        learnt = Request(request.model, request.data).records(
            self.path, self.format, "train", self.task
        )
        asked = request.records(self.path, self.format, self.split, self.task)
        return self.written(name, evaluate_answers(predict_by_prior(learnt, asked)))


@dataclass(frozen=True)
class QuestionOnlyRow(Row):
    """Answers of a model that was trained with `blind: true`."""

    def measure(self, name: str, request: Request) -> list[Figure]:
        if request.question_only is None:
            note = "not measured: name such a model with --question-only"
            return [
                Figure(name, self.data, self.split, title, None, note=note)
                for title in self.figures.values()
            ]
        records = request.records(self.path, self.format, self.split, self.task)
        asked = [request.question_only]
        (result,) = assess(asked, self.task, records, request.pictures, None, False)
        return self.written(name, result.evaluation)


@dataclass(frozen=True)
class ShapesRow:
    """How often a photo is given a shape of easy-VQA's for an answer to `PLAIN_QUESTIONS`."""

    photos: int
    sources: Sequence[tuple[str, str, str]]  # folder, format and split

    def measure(self, name: str, request: Request) -> list[Figure]:
        records = [
            group[0]
            for path, format, split in self.sources
            for group in by_image(request.records(path, format, split, "caption"))
        ][: min(self.photos, request.limit or self.photos)]
        shaped = shapes_said(request.model.captioner, records, request.pictures)
        split = f"val and dev, {len(shaped):,} photos"
        title = "photos of which an answer is a shape of easy-VQA"
        note = f"{shaped.sum():,} photos"
        return [Figure(name, "photos", split, title, 100 * float(shaped.mean()), note=note)]


def shapes_said(captioner: Captioner, records: Sequence[Record], report: Report) -> np.ndarray:
    """Whether any answer about a photo names a shape of easy-VQA's, one truth value a photo that can be read."""
    said = []
    for record in records:
        try:
            image = captioner.encode(record.image.read())
        except (ImageError, DataError) as error:
            report.skip(Broken(str(record.image), str(error)))
            continue
        report.good += 1
        answers = image.ask_all(PLAIN_QUESTIONS)
        said.append(any(SHAPES & set(answer.text.lower().split()) for answer in answers))
    return np.array(said)


def _why_not(metric: str, evaluation: Evaluation) -> str:
    if metric.startswith("WUPS"):
        return "not measured: WordNet is not installed"
    return f"not measured: {evaluation.missing[metric]}"


ROWS: Mapping[str, Row | ShapesRow] = {
    "coco": Row("COCO, a part", "coco", "coco", "val", "caption", CAPTIONS),
    "pascal": Row("PASCAL Sentences", "pascal_sentences", "coco", "val", "caption", CAPTIONS),
    "flickr8k-dev": Row("Flickr8k", "flickr8k", "flickr8k", "dev", "caption", CAPTIONS),
    "flickr8k": Row("Flickr8k", "flickr8k", "flickr8k", "test", "caption", CAPTIONS),
    "vqa": Row("VQA v2, a part", "vqa_v2", "vqa_v2", "val", "vqa", OFFICIAL | ERROR),
    "vqa-prior": PriorRow(
        "by the question's first words", "vqa_v2", "vqa_v2", "val", "vqa", OFFICIAL
    ),
    "vqa-question-only": QuestionOnlyRow(
        "a question-only model", "vqa_v2", "vqa_v2", "val", "vqa", OFFICIAL
    ),
    "daquar-dev": Row("DAQUAR", "daquar", "daquar", "dev", "vqa", EXACT | ERROR),
    "daquar": Row(
        "DAQUAR", "daquar", "daquar", "test", "vqa", EXACT | {"WUPS@0.9": "WUPS@0.9"} | ERROR
    ),
    "easy-vqa": Row("easy-VQA", "easy-vqa", "easy_vqa", "test", "vqa", EXACT),
    "shapes": ShapesRow(
        500,
        (
            ("coco", "coco", "val"),
            ("pascal_sentences", "coco", "val"),
            ("flickr8k", "flickr8k", "dev"),
        ),
    ),
}
