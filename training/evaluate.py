"""Score a model on a dataset, or compare two: `python -m training.evaluate MODEL [MODEL_B] ...`

The same command is `vlm evaluate`.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vlm.errors import how_to_install

# Wrong options are told at once, and without the packages of training: what needs them is imported in the functions.
if TYPE_CHECKING:
    from .data.records import Record
    from .evaluation.metrics.vqa import Similarity
    from .evaluation.predict import Prediction


class Task(StrEnum):
    caption = "caption"
    vqa = "vqa"


def evaluate(
    task: Annotated[Task, typer.Option(help="What the model does.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            show_default="the bundled model",
            help="A bundled name, a folder or a hub id; a second one is compared with the first.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The same as the argument MODEL.")] = None,
    data: Annotated[str | None, typer.Option(help="The dataset's folder, file or name.")] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Its format, as training/README.md lists them; else detected."),
    ] = None,
    split: Annotated[str, typer.Option(help="The split to score.")] = "dev",
    images: Annotated[
        Path | None, typer.Option(help="The image folder, if not beside the texts.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="The questions file of format vqa_v2; replaces --data.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="The annotations file that goes with --questions.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An argument of the format's reader, as name=value.")
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(help="Beams of the search.", show_default="3 for captions, 5 for answers"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score only the first images, or questions.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="The last model with weights in 8 bits.")
    ] = False,
    blind: Annotated[
        bool,
        typer.Option(
            "--blind",
            help="The last model is a question-only baseline, trained with `blind: true`; "
            "it gets zeros in place of every image.",
        ),
    ] = False,
    meteor: Annotated[
        bool, typer.Option("--meteor", help="Score captions with METEOR too; needs Java.")
    ] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="OUT.jsonl", help="Write every prediction with its scores."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="Draw how far an answer's confidence can be trusted."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score captions or answers on a dataset, with 95 % intervals.

    With two models the difference is printed, and whether it is more than noise. Figures are in
    points: a CIDEr of 1.0 is 100. An image that cannot be read is left out and named at the end,
    and the exit code is 1.
    """
    names = [*([model] if model is not None else []), *(models or [])]
    if len(names) > 2:
        fail(f"one model is scored or two are compared, not {len(names)}")
    if questions is not None:
        data, format = data or str(questions.parent), format or "vqa_v2"
        files = {"questions": questions, "annotations": annotations}
        named = [f"{name}={json.dumps(str(file))}" for name, file in files.items() if file]
        option = [*(option or []), *named]
    elif annotations is not None:
        fail("--annotations goes with --questions")
    if data is None:
        fail("name the dataset with --data")
    if meteor and task is not Task.caption:
        fail("--meteor goes with --task caption")
    if meteor and shutil.which("java") is None:
        fail("METEOR needs Java: install a Java runtime, or leave out --meteor")
    if plot is not None and task is not Task.vqa:
        fail("--plot goes with --task vqa")
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        fail(f"--plot must name a .png, .svg or .pdf file, not {plot.name!r}")
    if plot is not None and not plot.parent.is_dir():
        fail(f"--plot: there is no folder {plot.parent}")

    with clear_errors():
        from vlm.loading import load
        from vlm.weights.hub import DEFAULT

        from .data.report import Report
        from .evaluation.predict import predict_answers, predict_captions
        from .evaluation.results import (
            Result,
            as_record,
            plot_confidence,
            show,
            write_predictions,
        )
        from .evaluation.scoring import differences, evaluate_answers, evaluate_captions
        from .prepare import read_all

        rows, pictures = Report(), Report()
        records = select(read_all(data, format, split, images, option, rows), task, limit, data)
        names = names or [DEFAULT]
        captioners = [load(name) for name in names[:-1]] + [load(names[-1], int8=int8)]
        if task is Task.caption:
            predict, score = predict_captions, partial(evaluate_captions, meteor=meteor)
        else:
            similarity = word_similarity(records)
            predict, score = predict_answers, partial(evaluate_answers, similarity=similarity)
        results: list[Result] = []
        # Opened before the work is done, so that a place that cannot be written is told at once.
        with (
            nullcontext()
            if predictions is None
            else predictions.open("w", encoding="utf-8") as file
        ):
            for name, captioner in zip(names, captioners, strict=True):
                unseen = blind and captioner is captioners[-1]
                start = time.perf_counter()
                going = predict(captioner, records, pictures, beams, unseen)
                said = list(with_progress(going, name, len(records)))
                seconds = time.perf_counter() - start
                results.append(Result(name, unseen, said, score(said), seconds))
                # Two models are compared on the images that could be read.
                records = [prediction.record for prediction in said]
            two = len(results) == 2
            compared = differences(*(r.evaluation for r in results)) if two else None
            # Before anything is written: the figures are not lost where that fails.
            if as_json:
                print(json.dumps(as_record(task, results, compared)), flush=True)
            else:
                show(task, results, compared)
            if file is not None:
                for result in results:
                    write_predictions(file, task, result)
        if plot is not None:
            plot_confidence(results, plot)
    for what, report in (("rows", rows), ("images", pictures)):
        if not report.complete:
            typer.secho(f"{what}: {report.summary()}", err=True, fg="red")
    if rows.broken or pictures.broken:
        raise typer.Exit(1)


def select(records: list[Record], task: Task, limit: int | None, where: str) -> list[Record]:
    """The records that a task is scored on. Raises DataError where they cannot be scored."""
    from .data.records import DataError
    from .evaluation.predict import with_all_captions
    from .evaluation.scoring import check_references

    if task is Task.caption:
        chosen = with_all_captions(record for record in records if record.question is None)
    else:
        chosen = [record for record in records if record.question is not None]
    if not chosen:
        what = "captions" if task is Task.caption else "questions"
        raise DataError(f"{where} has no {what} in this split, so there is nothing to score.")
    check_references(chosen[:limit])
    return chosen[:limit]


def word_similarity(records: list[Record]) -> Similarity | None:
    """WordNet's similarity for DAQUAR, whose papers report WUPS; None for other data."""
    from .evaluation.metrics.wups import WordSimilarity

    if not any(record.source == "daquar" for record in records):
        return None
    try:
        return WordSimilarity()
    except LookupError as error:
        typer.secho(f"{error} The scores go without it.", err=True, fg="yellow")
        return None


def with_progress(predictions: Iterator[Prediction], name: str, total: int) -> Iterator[Prediction]:
    """The same predictions, with a bar on the error stream where someone looks at it."""
    from rich.console import Console
    from rich.progress import track

    yield from track(
        predictions,
        description=name,
        total=total,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def clear_errors() -> Iterator[None]:
    """What the user can put right becomes one sentence and exit code 2."""
    try:
        from vlm.options import OptionError
        from vlm.runtimes.openvino import BackendError
        from vlm.weights.store import CheckpointError

        from .data.records import DataError

        try:
            yield
        except (DataError, CheckpointError, OptionError, BackendError) as error:
            fail(str(error))
    except ModuleNotFoundError as error:
        fail(f"evaluation needs the package {error.name}; {how_to_install('train')}")
    except OSError as error:
        fail(f"{error.filename or 'cannot write the output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one sentence to the error stream and leave."""
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(code) from None


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(evaluate)

if __name__ == "__main__":
    app()
