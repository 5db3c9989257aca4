"""Score a model on a dataset, or compare two: `vlm evaluate MODEL [MODEL_B] ...`

In a checkout `python -m training.evaluate` is the same.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device
from vlm.cli.failures import clear_errors, fail, run_program
from vlm.options import Precision

from .dataset_arguments import Format, Images, ReaderOptions, read_all

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Task(StrEnum):
    caption = "caption"
    vqa = "vqa"


@app.command()
@clear_errors("train")
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
    format: Format = None,
    split: Annotated[str, typer.Option(help="The split to score.")] = "dev",
    images: Images = None,
    questions: Annotated[
        Path | None, typer.Option(help="The questions file of format vqa_v2; replaces --data.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="The annotations file that goes with --questions.")
    ] = None,
    option: ReaderOptions = None,
    beams: Annotated[
        int | None,
        typer.Option(help="Beams of the search.", show_default="3 for captions, 5 for answers"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score only the first images, or questions.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option(help="What the last model computes in; see `vlm caption --help`.")
    ] = Precision.float32,
    openvino: Annotated[
        bool, typer.Option("--openvino", help="Have OpenVINO run the last model.")
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
        typer.Option(
            metavar="OUT", help="Write every prediction with its scores, one JSON object a line."
        ),
    ] = None,
    server_format: Annotated[
        str | None,
        typer.Option(
            help="Write --predictions as an evaluation server reads them, and score nothing: "
            "vqa, vizwiz, gqa, coco or textcaps."
        ),
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
    if server_format is not None:
        if predictions is None:
            fail("--server-format goes with --predictions OUT.json")
        if len(names) > 1:
            fail("--server-format writes what one model says, not two")
        if meteor or plot is not None or as_json:
            fail("--server-format scores nothing, so --meteor, --plot and --json do not go with it")

    # The packages of training load here, where one that is missing becomes a sentence.
    from vlm.loading import load
    from vlm.weights.hub import DEFAULT

    from .data.report import Report
    from .evaluation.assess import Model, assess, predict, select
    from .evaluation.results import as_record, plot_confidence, show, unread, write_predictions
    from .evaluation.scoring import check_references, differences
    from .evaluation.server_formats import check_submission, write_submission

    # Images turn out to be broken when the work is under way: its figures are shown, however few are left.
    rows, pictures = Report(), Report(limit=1)
    records = select(read_all(data, format, split, images, option, rows), task, limit, data)
    if server_format is None:
        check_references(records)
    else:
        check_submission(server_format, task, records)
    names = names or [DEFAULT]
    last = len(names) - 1
    captioners = [load(name, device) for name in names[:last]]
    captioners.append(load(names[last], device, openvino, precision))
    asked = [Model(n, c, blind and i == last) for i, (n, c) in enumerate(zip(names, captioners))]

    # Opened before the work is done, so that a place that cannot be written is told at once.
    with nullcontext() if predictions is None else predictions.open("w", encoding="utf-8") as file:
        if server_format is not None:
            assert file is not None
            said = predict(asked[0], task, records, pictures, beams)
            write_submission(file, server_format, records, said)
            print(f"{len(records):,} predictions are in {predictions}")
            if sentence := unread(said, names[0]):
                typer.echo(sentence, err=True)
        else:
            results = assess(asked, task, records, pictures, beams, meteor)
            compared = differences(*(r.evaluation for r in results)) if len(results) == 2 else None
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


if __name__ == "__main__":
    run_program(app)
