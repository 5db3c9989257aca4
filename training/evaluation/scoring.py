"""Predictions to figures in points, their intervals, and the difference of two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vlm.prompts import clean_text

from ..data.records import DataError, Record
from .metrics.calibration import Calibration, accuracy_at_coverage, calibration
from .metrics.captions import score_captions
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
    by_type,
    score_answer_sets,
    score_vqa,
)
from .predict import Prediction

COVERAGES = (0.5, 0.8)


@dataclass(frozen=True)
class Evaluation:
    """One model's figures, in points; "length" is in words.

    `metrics` are all figures by name. `resampled` has those with an interval, one row an image.
    `items` has the scores of each prediction. `types` has the mean accuracies by "kind", where
    the data name the type of an answer or question, and by "question", its first two words.
    """

    metrics: dict[str, float]
    resampled: dict[str, Metric]
    items: list[dict[str, float]]
    types: dict[str, dict[str, TypeScore]] = field(default_factory=dict)
    calibration: Calibration | None = None

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Bootstrap intervals of 95 %."""
        return {name: bootstrap_interval(metric) for name, metric in self.resampled.items()}


def check_references(records: Sequence[Record]) -> None:
    """Raise DataError where records cannot be scored; worth knowing before a model is run on them."""
    if not records:
        raise DataError("There is nothing to score.")
    secret = [record for record in records if not record.texts]
    if secret:
        raise DataError(
            f"{len(secret)} of {len(records)} entries keep what is right secret, such as "
            f"{secret[0].id or secret[0].image}; choose a split with public captions or answers."
        )
    several = {len(r.texts) > 1 for r in records if r.question is not None}
    if len(several) > 1:
        raise DataError(
            "Some questions have one answer and others several, which are scored by different "
            "rules; evaluate them apart."
        )


def evaluate_captions(predictions: Sequence[Prediction], meteor: bool = False) -> Evaluation:
    """All caption metrics; see `training.evaluation.metrics.captions.score_captions`.

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
    return Evaluation(scores.values, scores.metrics, items)


def evaluate_answers(
    predictions: Sequence[Prediction], similarity: Similarity | None = None
) -> Evaluation:
    """Accuracy of answers, by the rule that the data's answers call for.

    With several human answers a question it is the official VQA accuracy. With one it is exact
    match, of answer sets where an answer is a comma-separated list, as in DAQUAR; both sides are
    compared in lower case after `clean_text`. `similarity` adds WUPS. "ECE" is the calibration
    error of the model's probabilities, "accuracy@80%" the accuracy where only the most confident
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
    for coverage in COVERAGES:
        accuracy = accuracy_at_coverage(confidences, points / 100, coverage)
        values[f"accuracy@{coverage:.0%}"] = accuracy
    items = [
        {name: float(metric.rows[i]) for name, metric in measured.items()}
        for i in range(len(predictions))
    ]
    return Evaluation(values, resampled, items, _types(predictions, points), calibrated)


def differences(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """The paired difference `second - first` of every metric that can be resampled.

    Raises ValueError where the two were not scored on the same items.
    """
    return {
        name: paired_difference(metric, second.resampled[name])
        for name, metric in first.resampled.items()
    }


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
    types["question"] = by_type(points, [" ".join(q.split()[:2]) for q in questions])
    return types
