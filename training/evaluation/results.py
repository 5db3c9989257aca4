"""What an evaluation found, as JSON, as tables, as a plot and prediction by prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from .metrics.calibration import selective_accuracy
from .metrics.statistics import Difference
from .metrics.vqa import TypeScore
from .predict import Prediction
from .scoring import Evaluation

MOST_TYPES = 12  # rows of a printed table


@dataclass(frozen=True)
class Result:
    """What one model said and how good it was; `seconds` were spent on saying it."""

    model: str
    blind: bool
    predictions: list[Prediction]
    evaluation: Evaluation
    seconds: float


def as_record(
    task: str, results: Sequence[Result], compared: Mapping[str, Difference] | None
) -> dict[str, Any]:
    """JSON-ready: one model's figures, or those of two in "models" with their "difference"."""
    if compared is None:
        return {"task": task, **_model_record(results[0])}
    return {
        "task": task,
        "n": len(results[0].predictions),
        "models": [_model_record(result) for result in results],
        "difference": {
            name: {
                "value": difference.value,
                "ci95": [difference.interval.low, difference.interval.high],
                "p_value": difference.p_value,
                "more_than_noise": difference.more_than_noise,
            }
            for name, difference in compared.items()
        },
    }


def _model_record(result: Result) -> dict[str, Any]:
    evaluation = result.evaluation
    record = {
        "n": len(result.predictions),
        "metrics": evaluation.metrics,
        "ci95": {name: [i.low, i.high] for name, i in evaluation.intervals.items()},
        "model": result.model,
        "seconds": round(result.seconds, 3),
    }
    if result.blind:
        record["blind"] = True
    if evaluation.missing:
        record["missing"] = evaluation.missing
    if evaluation.definitions:
        record["definitions"] = dict(evaluation.definitions)
    if problems := [p.problem for p in result.predictions if p.problem]:
        record["unread_questions"] = {"n": len(problems), "first": problems[0]}
    if evaluation.types:
        record["by_type"] = {
            rule: {name: {"n": t.n, "accuracy": t.score} for name, t in scores.items()}
            for rule, scores in evaluation.types.items()
        }
    if evaluation.calibration is not None:
        record["reliability"] = [
            {"low": b.low, "high": b.high, "n": b.n}
            | ({"confidence": b.confidence, "accuracy": b.accuracy} if b.n else {})
            for b in evaluation.calibration.bins
        ]
    return record


def write_predictions(file: TextIO, task: str, result: Result) -> None:
    """One JSON object a line and prediction, with its scores in points, and what a caption invents."""
    scored = zip(result.predictions, result.evaluation.items, strict=True)
    for number, (prediction, scores) in enumerate(scored):
        record = prediction.record
        row: dict[str, Any] = {"model": result.model, "image": str(record.image), "id": record.id}
        if task == "caption":
            row |= {"caption": prediction.text, "references": record.texts}
        else:
            row |= {"question": record.question, "kind": record.kind}
            row |= {"answer": prediction.text, "answers": record.texts}
        row |= {"confidence": prediction.confidence, "scores": scores}
        if result.evaluation.invented is not None:
            row["invented"] = result.evaluation.invented[number]
        if prediction.problem:
            row["problem"] = prediction.problem
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def show(task: str, results: Sequence[Result], compared: Mapping[str, Difference] | None) -> None:
    """Print the figures as tables."""
    console = Console()
    console.print(_metrics_table(task, results))
    for name, definition in results[0].evaluation.definitions.items():
        console.print(f"{name}: {definition}", markup=False, highlight=False)
    if compared:
        console.print(_difference_table(compared))
    elif compared is not None:
        console.print("of one image there is no difference that could be told from noise")
    for rule in results[0].evaluation.types:
        console.print(_types_table(rule, [result.evaluation.types[rule] for result in results]))
    for result in results:
        if sentence := unread(result.predictions, _name(result)):
            console.print(sentence, markup=False, highlight=False)


def unread(predictions: Sequence[Prediction], name: str) -> str:
    """A sentence on the questions that a model could not read, if there are any."""
    problems = [prediction.problem for prediction in predictions if prediction.problem]
    if not problems:
        return ""
    return (
        f"{name} could not read {len(problems)} of its questions, which count as wrong; "
        f"the first: {problems[0]}"
    )


def _metrics_table(task: str, results: Sequence[Result]) -> Table:
    what = "captions" if task == "caption" else "answers"
    seconds = " and ".join(f"{result.seconds:.0f} s" for result in results)
    table = Table(
        title=f"{len(results[0].predictions):,} {what} in {seconds}",
        caption="points, length in words; 95 % intervals over images, of two or more",
    )
    table.add_column("")
    for result in results:
        table.add_column(_name(result), justify="right")
        table.add_column("95 %", justify="right")
    names = [
        name
        for result in results
        for name in (*result.evaluation.metrics, *result.evaluation.missing)
    ]
    for name in dict.fromkeys(names):
        table.add_row(
            name, *(cell for result in results for cell in _cells(result.evaluation, name))
        )
    return table


def _cells(evaluation: Evaluation, name: str) -> tuple[str, str]:
    """A figure and its interval, or why there is none."""
    if name in evaluation.missing:
        return evaluation.missing[name], ""
    interval = evaluation.intervals.get(name)
    told = f"{interval.low:.2f} to {interval.high:.2f}" if interval else ""
    return f"{evaluation.metrics[name]:.2f}", told


def _difference_table(compared: Mapping[str, Difference]) -> Table:
    table = Table(title="Second model less the first", caption="paired bootstrap")
    table.add_column("")
    for title in ("difference", "95 %", "p"):
        table.add_column(title, justify="right")
    table.add_column("more than noise")
    for name, difference in compared.items():
        table.add_row(
            name,
            f"{difference.value:+.2f}",
            f"{difference.interval.low:+.2f} to {difference.interval.high:+.2f}",
            f"{difference.p_value:.3f}",
            "yes" if difference.more_than_noise else "no",
        )
    return table


def _types_table(rule: str, scores: Sequence[Mapping[str, TypeScore]]) -> Table:
    titles = {
        "kind": "Accuracy by type",
        "verdict": "Accuracy by how far the model says to trust it",
        "question": "Accuracy by how the question begins",
    }
    left_out = len(scores[0]) - MOST_TYPES
    table = Table(title=titles[rule], caption=f"and {left_out} more" if left_out > 0 else None)
    table.add_column("")
    table.add_column("n", justify="right")
    for _ in scores:
        table.add_column("accuracy", justify="right")
    for name, first in list(scores[0].items())[:MOST_TYPES]:
        table.add_row(name, f"{first.n:,}", *(f"{s[name].score:.1f}" for s in scores))
    return table


def plot_confidence(results: Sequence[Result], path: Path) -> None:
    """Draw accuracy at each confidence, and accuracy where only the most confident answers count."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    reliability, selective = figure.subplots(1, 2)
    reliability.plot([0, 100], [0, 100], color="0.7", linestyle="--")
    for result in results:
        evaluation = result.evaluation
        assert evaluation.calibration is not None
        bins = [b for b in evaluation.calibration.bins if b.n]
        label = f"{_name(result)}: ECE {evaluation.calibration.ece:.1f}"
        sure, right = ([100 * getattr(b, k) for b in bins] for k in ("confidence", "accuracy"))
        reliability.plot(sure, right, marker="o", label=label)
        confidences = np.array([p.confidence for p in result.predictions])
        points = np.array([scores["accuracy"] for scores in evaluation.items])
        coverage, accuracy = selective_accuracy(confidences, points / 100)
        selective.plot(100 * coverage, 100 * accuracy, label=_name(result))
    reliability.set(xlabel="confidence, %", ylabel="accuracy, %", title="Reliability")
    selective.set(xlabel="questions answered, %", ylabel="accuracy, %", title="Selective accuracy")
    for axes in (reliability, selective):
        axes.set_ylim(0, 100)
        axes.legend()
    figure.savefig(path)


def _name(result: Result) -> str:
    return f"{result.model} (blind)" if result.blind else result.model
