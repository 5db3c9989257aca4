"""Models on the records of a dataset: what they say, how long that takes, and how good it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import typer
from rich.console import Console
from rich.progress import track

from vlm.captioner import Captioner, synchronise

from ..data.records import DataError, Record
from ..data.report import Report
from .metrics.vqa import Similarity
from .metrics.wups import WordSimilarity
from .predict import Prediction, predict_answers, predict_captions, with_all_captions
from .results import Result
from .scoring import Evaluation, evaluate_answers, evaluate_captions


@dataclass(frozen=True)
class Model:
    """A model under the name that it was asked for; a `blind` one gets zeros in place of every image."""

    name: str
    captioner: Captioner
    blind: bool


def select(records: Sequence[Record], task: str, limit: int | None, where: str) -> list[Record]:
    """The records of a task, the first `limit` of them. Raises DataError where there are none."""
    if task == "caption":
        chosen = with_all_captions(record for record in records if record.question is None)
    else:
        chosen = [record for record in records if record.question is not None]
    if not chosen:
        what = "captions" if task == "caption" else "questions"
        raise DataError(f"{where} has no {what} in this split, so there is nothing to score.")
    return chosen[:limit]


def predict(
    model: Model, task: str, records: Sequence[Record], report: Report, beams: int | None
) -> list[Prediction]:
    """What a model says of the records; images that cannot be read have no prediction and go into `report`.

    A bar is on the error stream where someone looks at it. Raises DataError when none can be read, or more are broken
    than the report accepts.
    """
    search = {} if beams is None else {"beams": beams}
    say = predict_captions if task == "caption" else predict_answers
    predictions = track(
        say(model.captioner, records, report, search, model.blind),
        description=model.name,
        total=len(records),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    said = list(predictions)
    if not said:
        raise DataError(
            f"none of the images can be read; the first: {report.broken[0].where}: {report.broken[0].reason}"
        )
    return said


def assess(
    models: Sequence[Model],
    task: str,
    records: Sequence[Record],
    report: Report,
    beams: int | None,
    meteor: bool,
) -> list[Result]:
    """What each model says of the records, and how good it is. Raises DataError as `predict` does.

    The second model gets the images that could be read for the first, so that the two can be compared.
    """
    score: Callable[[list[Prediction]], Evaluation]
    if task == "caption":
        score = partial(evaluate_captions, meteor=meteor)
    else:
        score = partial(evaluate_answers, similarity=word_similarity(records))
    results: list[Result] = []
    for model in models:
        start = time.perf_counter()
        said = predict(model, task, records, report, beams)
        synchronise(model.captioner.model.device)
        seconds = time.perf_counter() - start
        results.append(Result(model.name, model.blind, said, score(said), seconds))
        records = [prediction.record for prediction in said]
    return results


def word_similarity(records: Sequence[Record]) -> Similarity | None:
    """WordNet's similarity for DAQUAR, whose papers report WUPS; None for other data."""
    if not any(record.source == "daquar" for record in records):
        return None
    try:
        return WordSimilarity()
    except LookupError as error:
        typer.secho(f"{error} The scores go without it.", err=True, fg="yellow")
        return None
