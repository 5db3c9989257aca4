"""Two settings on the same photos or questions, in turns: how much better one is, what it costs, and what is chance."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlm.captioner import BATCH, Captioner, synchronise
from vlm.encoded_image import EncodedImage

from ..data.records import DataError, Record
from ..data.report import Report
from .assumptions import Assumptions
from .grounding.curves import Curves, curves
from .grounding.explainers import Explainer, by_method
from .grounding.places import Example
from .metrics.statistics import Difference, Interval, Metric, bootstrap_interval, paired_difference
from .predict import Prediction, by_image, predict_answers, predict_captions
from .scoring import evaluate_answers, evaluate_captions

MAIN = {
    "caption": "CIDEr",
    "vqa": "accuracy",
    "maps": "insertion",
}  # by what is judged; more is better
COST = "ms"


@dataclass(frozen=True, eq=False)
class Side:
    """One of two settings, with the model that they ask for."""

    assumptions: Assumptions
    captioner: Captioner


@dataclass
class Cost:
    """The ms of each batch, which both sides ran right after each other, and how many items it had."""

    ms: list[float] = field(default_factory=list)
    items: list[int] = field(default_factory=list)

    def add(self, ms: float, items: int) -> None:
        self.ms.append(ms)
        self.items.append(items)

    def metric(self) -> Metric:
        """The mean of an item; batches are drawn as a whole, as the photos of one share its time."""
        rows = np.stack(
            [np.array(self.ms), np.array(self.items, dtype=float)], axis=1
        )  # (batches, 2)
        return Metric(rows, lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()))


@dataclass(frozen=True)
class Measured:
    """One figure of both sides, with their intervals, and the paired difference, second less first.

    Of one photo, or of one batch, there are neither.
    """

    values: tuple[float, float]
    intervals: tuple[Interval, Interval] | None
    difference: Difference | None

    @classmethod
    def of(cls, first: Metric, second: Metric) -> Measured:
        values = first.value, second.value
        if len(first.rows) < 2:
            return cls(values, None, None)
        intervals = bootstrap_interval(first), bootstrap_interval(second)
        return cls(values, intervals, paired_difference(first, second))


@dataclass(frozen=True)
class Trial:
    """What came of it: `judged` is a key of MAIN, `changed` the settings that differ, `n` the photos or questions."""

    judged: str
    changed: Mapping[str, tuple[Any, Any]]
    n: int
    metrics: Mapping[str, Measured]
    cost: Measured

    @property
    def verdict(self) -> str:
        """Whether the second is "better" or "worse" by the main metric, "no different" as far as shown, or "unknown".

        The last where there are too few photos for an interval.
        """
        main = self.metrics.get(MAIN[self.judged])
        if main is None or main.difference is None:
            return "unknown"
        if not main.difference.more_than_noise:
            return "no different"
        return "better" if main.difference.value > 0 else "worse"


def run_trial(
    sides: tuple[Side, Side],
    judged: str,
    changed: Mapping[str, tuple[Any, Any]],
    records: Sequence[Record],
    report: Report,
) -> Trial:
    """Run both sides on the records and compare. What cannot be read goes into `report`.

    Raises DataError where nothing can be read.
    """
    if judged == "maps":
        metrics, costs, n = _maps(sides, records, report)
    else:
        metrics, costs, n = _words(sides, judged, records, report)
    cost = Measured.of(*(cost.metric() for cost in costs))
    return Trial(judged, changed, n, metrics, cost)


def _words(
    sides: tuple[Side, Side], judged: str, records: Sequence[Record], report: Report
) -> tuple[dict[str, Measured], tuple[Cost, Cost], int]:
    """Captions or answers. The sides take turns batch by batch, so that a busy machine is as busy for both."""
    said: tuple[list[Prediction], list[Prediction]] = ([], [])
    costs = Cost(), Cost()
    groups = by_image(records)
    for side in sides:  # what is done once, at a model's first use, is no side's cost
        _say(side, judged, groups[0], Report(limit=1))
    for number, start in enumerate(range(0, len(groups), BATCH)):
        batch = [record for group in groups[start : start + BATCH] for record in group]
        order = (0, 1) if number % 2 == 0 else (1, 0)
        seen: Report = report
        for place in order:
            predictions = _say(sides[place], judged, batch, seen)
            said[place].extend(predictions)
            if predictions:
                costs[place].add(sum(p.ms for p in predictions), len(predictions))
            batch, seen = [p.record for p in predictions], Report()  # what could be read
    if not said[0]:
        raise DataError(
            f"none of the images can be read; the first: {report.broken[0].where}: {report.broken[0].reason}"
        )
    evaluate = evaluate_captions if judged == "caption" else evaluate_answers
    first, second = (evaluate(predictions) for predictions in said)
    shared = [name for name in first.resampled if name in second.resampled]
    metrics = {name: Measured.of(first.resampled[name], second.resampled[name]) for name in shared}
    return metrics, costs, len(said[0])


def _say(side: Side, judged: str, records: Sequence[Record], report: Report) -> list[Prediction]:
    predict = predict_captions if judged == "caption" else predict_answers
    return list(predict(side.captioner, records, report, side.assumptions.options))


def _maps(
    sides: tuple[Side, Side], records: Sequence[Record], report: Report
) -> tuple[dict[str, Measured], tuple[Cost, Cost], int]:
    """Maps of a word of each photo's first caption, by what its probability does as the picture comes or goes."""
    examples = [Example(record.image, record.texts[0], ()) for record in records]
    costs = Cost(), Cost()
    found: list[Curves] = []
    for side, cost in zip(sides, costs):
        method = side.assumptions.method or "attention"
        explain = _timed(by_method(method), cost)
        pictures = report if not found else Report()
        found.append(curves(side.captioner, examples, {method: explain}, "mean", pictures)[method])
        examples = [examples[number] for number in found[0].photos]
    if not found[0].photos:
        raise DataError(
            f"none of the images can be read; the first: {report.broken[0].where}: {report.broken[0].reason}"
        )
    first, second = found
    metrics = {
        side: Measured.of(first.area(side, False), second.area(side, False))
        for side in ("insertion", "deletion")
    }
    return metrics, costs, len(first.photos)


def _timed(explain: Explainer, cost: Cost) -> Explainer:
    def timed(
        image: EncodedImage, ids: Sequence[int], question: str | None = None
    ) -> list[np.ndarray]:
        start = time.perf_counter()
        maps = explain(image, ids, question)
        synchronise(image.captioner.model.device)
        cost.add((time.perf_counter() - start) * 1000, 1)
        return maps

    return timed
