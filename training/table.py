"""Fill the table of a model card: `vlm table MODEL --data DIR --card MODEL/README.md`

In a checkout `python -m training.table` is the same.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device
from vlm.cli.failures import clear_errors, fail, run_program

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@clear_errors("train")
def table(
    data: Annotated[
        Path, typer.Option(help="The folder that holds coco, flickr8k and the others.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="As for evaluate.", show_default="the bundled model"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW", help="One row, or several.", show_default="all"),
    ] = None,
    question_only: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A model that was trained with `blind: true`."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first images, or questions, of each row.")
    ] = None,
    device: Device = "auto",
    card: Annotated[
        Path | None,
        typer.Option(help="Put the rows between this file's `<!-- figures -->` lines."),
    ] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the figures as JSON, too.")
    ] = None,
) -> None:
    """Measure what a model card says, with 95 % intervals, and print it as a table.

    Rows that are not measured stay in the card as they are. Score test splits once, at the end.
    """
    from vlm.loading import load

    from .evaluation.assess import Model
    from .evaluation.card import fill, lines
    from .evaluation.figures import ROWS, Figure, Request

    names = only or list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        fail(f"there is no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    if card is not None:
        fill(card, [])  # what is wrong is told before the work is done
    asked = Model(model or "small", load(model, device=device), blind=False)
    blind = None
    if question_only is not None:
        blind = Model(question_only, load(question_only, device=device), blind=True)
    request = Request(asked, data, blind, limit)
    figures: list[Figure] = []
    for name in names:
        start = time.perf_counter()
        measured = ROWS[name].measure(name, request)
        figures += measured
        told = "; ".join(f"{figure.name} {figure.points}" for figure in measured)
        typer.echo(f"{name}: {told} ({time.perf_counter() - start:.0f} s)", err=True)
        if as_json is not None:
            as_json.write_text(json.dumps([vars(figure) for figure in figures], indent=2) + "\n")
        if card is not None:
            fill(card, figures)
    print("\n".join(lines(figures)))
    if request.pictures.broken:
        typer.secho(f"images: {request.pictures.summary()}", err=True, fg="red")
        raise typer.Exit(1)


if __name__ == "__main__":
    run_program(app)
