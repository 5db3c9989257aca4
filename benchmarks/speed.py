"""Ours beside transformers and open_clip: same weights, same input, same machine, in turns, in one run."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from transformers.utils import logging

from benchmarks import coca, report
from benchmarks.parts import PARTS, Setting
from benchmarks.roofline import measure_machine
from benchmarks.timing import Row

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def speed(
    only: Annotated[
        list[str] | None, typer.Option(help=f"A part: {', '.join(PARTS)}. May be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each measure.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny models, one turn: does it still run?")
    ] = False,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Other work is on the machine: measure captions, questions and florence in processor time.",
        ),
    ] = False,
    plot: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("runs/speed.png"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Where the figures go as JSON.")
    ] = None,
    install_coca: Annotated[
        bool,
        typer.Option(
            "--install-coca",
            help=f"First fetch the {coca.PACKAGES[0]} that open_clip's CoCa needs, into the user's cache.",
        ),
    ] = False,
) -> None:
    """Print a table of measures, bars and limits, and draw a plot."""
    names = only or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        _fail(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    if install_coca:
        coca.install()
    left_out = {}
    if "coca" in names and not coca.packages().is_dir():
        left_out["coca"] = f"it needs {coca.PACKAGES[0]}; run once with --install-coca"
        if only:
            _fail(f"coca: {left_out['coca']}")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    machine = measure_machine(*(256, 16, 1) if quick else ())
    rows: list[Row] = []
    for name in (name for name in names if name not in left_out):
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(quick, 1 if quick else repeats, machine, Path(folder), shared)
            for row in PARTS[name](setting):
                print(f"{row.part}: {row.name}", file=sys.stderr, flush=True)
                rows.append(row)
    record = report.as_record(rows, machine, left_out)
    report.show(record, rows)
    plot.parent.mkdir(parents=True, exist_ok=True)
    report.plot(rows, plot)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(record, indent=2) + "\n")


def _fail(message: str) -> None:
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
