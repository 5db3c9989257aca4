"""Predictions to figures in points, their intervals, and the difference of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vlm.prompts import clean_text

from ..data.records import DataError, Record
from .metrics.calibration import Calibration, accuracy_at_coverage, calibration, chance_ece
from .metrics.captions import cider_of_each, score_captions
from .metrics.hallucination import DEFINITIONS, hallucination
from .metrics.objects import OBJECT_NAMES
from .metrics.statistics import (
    Difference,
    Interval,
    Metric,
    bootstrap_interval,
    paired_difference,
)
from .metrics.vqa import (
    Similarity,
    TypeScore,
    answer_set_match,
    by_type,
    score_answer_sets,
    score_vqa,
    vqa_accuracy,
)
from .predict import Prediction

COVERAGES = (0.5, 0.8)


@dataclass(frozen=True)
class Evaluation:
    """One model's figures, in points; "length" is in words.

    `metrics` are all figures by name, and `missing` says of others why there is none. `resampled`
    has those with an interval, one row an image. `items` has the scores of each prediction, and
    `invented` the objects that a caption names in vain. `types` has the mean accuracies by "kind",
    where the data name the type of an answer or question, by "verdict", where the model gives one,
    and by "question", its first two words.
    `definitions` are of figures that not every paper defines alike.
    """

    metrics: dict[str, float]
    resampled: dict[str, Metric]
    items: list[dict[str, float]]
    types: dict[str, dict[str, TypeScore]] = field(default_factory=dict)
    calibration: Calibration | None = None
    missing: dict[str, str] = field(default_factory=dict)
    invented: list[list[str]] | None = None
    definitions: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Bootstrap intervals of 95 %; of one image there is none."""
        return {
            name: bootstrap_interval(metric)
            for name, metric in self.resampled.items()
            if len(metric.rows) > 1
        }


def check_references(records: Sequence[Record]) -> None:
    """Raise DataError where records cannot be scored; worth knowing before a model is run on them."""
    if not records:
        raise DataError("There is nothing to score.")
    secret = [record for record in records if not record.texts]
    if secret:
        raise DataError(
            f"{len(secret)} of {len(records)} entries keep what is right secret, such as "
            f"{secret[0].id or secret[0].image}; choose a split with public captions or answers, "
            "or write what the evaluation server reads with --server-format."
        )
    several = {len(r.texts) > 1 for r in records if r.question is not None}
    if len(several) > 1:
        raise DataError(
            "Some questions have one answer and others several, which are scored by different "
            "rules; evaluate them apart."
        )


def evaluate_captions(predictions: Sequence[Prediction], meteor: bool = False) -> Evaluation:
    """All caption metrics; see `metrics.captions.score_captions` and `metrics.hallucination`.

    Raises DataError as `check_references` does, and for captions without a word.
    """
    check_references([p.record for p in predictions])
    keys = [str(i) for i in range(len(predictions))]
    texts = dict(zip(keys, (p.text for p in predictions), strict=True))
    references = dict(zip(keys, (p.record.texts for p in predictions), strict=True))
    try:
        scores = score_captions(texts, references, meteor)
    except ValueError as error:  # captions without words
        raise DataError(str(error)) from error
    items = [
        {name: float(values[i]) for name, values in scores.per_image.items()}
        for i in range(len(predictions))
    ]
    told = hallucination(
        [p.text for p in predictions], [p.record.texts for p in predictions], OBJECT_NAMES
    )
    missing = dict(scores.missing)
    if "CHAIR-i" not in told.metrics:
        missing["CHAIR-i"] = "no caption names an object"
    return Evaluation(
        scores.values | {name: metric.value for name, metric in told.metrics.items()},
        scores.metrics | told.metrics,
        items,
        missing=missing,
        invented=told.invented,
        definitions=DEFINITIONS,
    )


def evaluate_answers(
    predictions: Sequence[Prediction], similarity: Similarity | None = None
) -> Evaluation:
    """Accuracy of answers, by the rule that the data's answers call for.

    With several human answers a question it is the official VQA accuracy. With one it is exact
    match, of answer sets where an answer is a comma-separated list, as in DAQUAR; both sides are
    compared in lower case after `clean_text`. `similarity` adds WUPS. "ECE" is the calibration
    error of the model's probabilities, "ECE before calibration" that of
    a calibrated checkpoint without its temperature, "ECE by chance" what a perfect model's would be at this
    number of questions, "accuracy@80%" the accuracy where only the most confident
    80 % of the questions are answered. Raises DataError as `check_references` does.
    """
    check_references([p.record for p in predictions])
    keys = [str(i) for i in range(len(predictions))]
    if len(predictions[0].record.texts) > 1:
        texts = dict(zip(keys, (p.text for p in predictions), strict=True))
        answers = dict(zip(keys, (p.record.texts for p in predictions), strict=True))
        measured = score_vqa(texts, answers).metrics
    else:
        texts = dict(zip(keys, (_plain(p.text) for p in predictions), strict=True))
        wanted = dict(zip(keys, (_plain(p.record.texts[0]) for p in predictions), strict=True))
        measured = score_answer_sets(texts, wanted, similarity).metrics
        measured = {"accuracy": measured.pop("exact match"), **measured}
    lengths = Metric(np.array([len(p.text.split()) for p in predictions]))

    images = [p.record.image.key for p in predictions]
    resampled = {
        name: _by_image(metric, images) for name, metric in {**measured, "length": lengths}.items()
    }
    points = measured["accuracy"].rows  # (N,)
    confidences = np.array([p.confidence for p in predictions])
    calibrated = calibration(confidences, points / 100)
    values = {name: metric.value for name, metric in resampled.items()}
    values["ECE"] = calibrated.ece
    own = [p.confidence if p.uncalibrated is None else p.uncalibrated for p in predictions]
    if any(p.uncalibrated is not None for p in predictions):
        values["ECE before calibration"] = calibration(np.array(own), points / 100).ece
    values["ECE by chance"] = chance_ece(confidences)
    for coverage in COVERAGES:
        accuracy = accuracy_at_coverage(confidences, points / 100, coverage)
        values[f"accuracy@{coverage:.0%}"] = accuracy
    items = [
        {name: float(metric.rows[i]) for name, metric in measured.items()}
        for i in range(len(predictions))
    ]
    return Evaluation(values, resampled, items, _types(predictions, points), calibrated)


def points_of_each(predictions: Sequence[Prediction]) -> list[float | None]:
    """Points of each prediction: of a caption its CIDEr among all of them, of an answer its accuracy.

    None of captions where CIDEr has no figure. Captions are of one record an image, as
    `with_all_captions` makes.
    """
    captions = [p for p in predictions if p.record.question is None]
    ciders = iter(_ciders(captions))
    return [next(ciders) if p.record.question is None else _accuracy(p) for p in predictions]


def _ciders(captions: Sequence[Prediction]) -> Sequence[float | None]:
    texts = {str(i): p.text for i, p in enumerate(captions)}
    references = {str(i): p.record.texts for i, p in enumerate(captions)}
    measured = cider_of_each(texts, references) if captions else None
    return [None] * len(captions) if measured is None else measured.tolist()


def mean_points(predictions: Sequence[Prediction]) -> dict[str, float]:
    """The mean of `points_of_each`: "CIDEr" of captions and "accuracy" of answers, of what has figures."""
    each = points_of_each(predictions)
    kinds = {
        "CIDEr": [x for x, p in zip(each, predictions) if p.record.question is None],
        "accuracy": [x for x, p in zip(each, predictions) if p.record.question is not None],
    }
    known = {name: [x for x in values if x is not None] for name, values in kinds.items()}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def differences(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """The paired difference `second - first` of every metric that both have and that can be resampled.

    There is none of one image. Raises ValueError where the two were not scored on the same items.
    """
    return {
        name: paired_difference(metric, second.resampled[name])
        for name, metric in first.resampled.items()
        if name in second.resampled and len(metric.rows) > 1
    }


def _accuracy(prediction: Prediction) -> float:
    """The official VQA accuracy where several people have answered, else exact match, in points."""
    answers = prediction.record.texts
    if len(answers) > 1:
        return 100 * vqa_accuracy(prediction.text, answers)
    return 100 * answer_set_match(_plain(prediction.text), _plain(answers[0]))


def _plain(text: str) -> str:
    return clean_text(text).lower()


def _by_image(metric: Metric, images: Sequence[str]) -> Metric:
    """A mean over questions as a metric with a row for each image.

    Answers about one image are right or wrong together more often than by chance, so resampling
    single questions would give an interval that is too narrow.
    """
    _, indices = np.unique(np.array(images), return_inverse=True)
    rows = np.stack([np.bincount(indices, weights=metric.rows), np.bincount(indices)], axis=1)
    return Metric(rows, _ratio)


def _ratio(rows: np.ndarray) -> float:
    total, count = rows.sum(axis=0)
    return float(total / count)


def _types(predictions: Sequence[Prediction], points: np.ndarray) -> dict[str, dict]:
    types = {}
    if all(p.record.kind for p in predictions):
        types["kind"] = by_type(points, [p.record.kind for p in predictions])
    questions = [clean_text(p.record.question or "").lower() for p in predictions]
    if all(p.verdict for p in predictions):
        types["verdict"] = by_type(points, [p.verdict or "" for p in predictions])
    types["question"] = by_type(points, [" ".join(q.split()[:2]) for q in questions])
    return types
