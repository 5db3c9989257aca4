"""Try one assumption: two settings on the same photos or questions, `vlm try A.json B.json --data DIR`

In a checkout `python -m training.compare_settings` is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device
from vlm.cli.failures import clear_errors, fail, run_program

from .dataset_arguments import Format, Images, ReaderOptions, read_all

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@clear_errors("train")
def compare_settings(
    first: Annotated[
        Path, typer.Argument(metavar="A.json", help='Settings, such as {"beams": 3}.')
    ],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="The same but for one.")],
    data: Annotated[str, typer.Option(help="The dataset's folder, file or name.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="caption or vqa, where the data have captions and questions.", show_default=False
        ),
    ] = None,
    format: Format = None,
    split: Annotated[str, typer.Option(help="The split to try it on.")] = "dev",
    images: Images = None,
    option: ReaderOptions = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first images, or questions.")
    ] = None,
    several: Annotated[
        bool, typer.Option("--several", help="Let the two differ in more than one setting.")
    ] = False,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether one setting is better than another, and what it costs, with 95 % intervals.

    A settings file has any of: model, precision, openvino, the options of a search (beams,
    max_tokens and so on), and method, which has the maps judged in place of the words. The two take
    turns on the same photos, and the difference is paired.
    """
    if task not in (None, "caption", "vqa"):
        fail(f"--task is caption or vqa, not {task!r}")

    # The packages of training load here, where one that is missing becomes a sentence.
    from .data.report import Report
    from .evaluation.assess import select
    from .evaluation.assumptions import (
        AssumptionError,
        check_one_thing,
        differing,
        read_assumptions,
    )
    from .evaluation.scoring import check_references
    from .evaluation.trial import Side, run_trial
    from .evaluation.trial_tables import show_trial, trial_record

    for path in (first, second):  # what is no settings file is told before the data are read
        read_assumptions(path, task or "caption")
    rows, pictures = Report(), Report(limit=1)
    everything = read_all(data, format, split, images, option, rows)
    if task is None:
        found = {"caption" if record.question is None else "vqa" for record in everything}
        if len(found) > 1:
            fail("the data have captions and questions; give --task caption or --task vqa")
        task = found.pop() if found else "caption"
    one, other = (read_assumptions(path, task) for path in (first, second))
    changed = differing(one, other, task)
    check_one_thing(changed, several)
    records = select(everything, task, limit, data)
    check_references(records)
    judged = task
    if (one.method, other.method) != (None, None):
        if task != "caption":
            raise AssumptionError("methods are judged on captions; choose data that have some")
        judged = "maps"

    from vlm.loading import load

    loaded = {
        runs: load(runs[0], device, runs[2], runs[1], runs[3]) for runs in {one.runs, other.runs}
    }
    trial = run_trial(
        (Side(one, loaded[one.runs]), Side(other, loaded[other.runs])),
        judged,
        changed,
        records,
        pictures,
    )
    if as_json:
        print(json.dumps(trial_record(trial)))
    else:
        show_trial(trial, (first.name, second.name))
    for what, report in (("rows", rows), ("images", pictures)):
        if not report.complete:
            typer.secho(f"{what}: {report.summary()}", err=True, fg="red")
    if rows.broken or pictures.broken:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_program(app)
