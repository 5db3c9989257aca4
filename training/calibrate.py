"""Fit how far a checkpoint's texts are to be trusted, and store it there: `vlm calibrate MODEL --data DIR`

In a checkout `python -m training.calibrate` is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device
from vlm.cli.failures import clear_errors, fail, run_program

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@clear_errors("train")
def calibrate(
    model: Annotated[Path, typer.Argument(help="The checkpoint folder, which is changed.")],
    data: Annotated[
        Path, typer.Option(help="The folder that holds coco, flickr8k, daquar and vqa_v2.")
    ],
    stamps: Annotated[
        Path, typer.Option(help="Drawings to tell from photos: Tux Paint's stamps.")
    ] = Path("/usr/share/tuxpaint/stamps"),
    photos: Annotated[int, typer.Option(min=50, help="Training photos to know photos by.")] = 600,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Only the first images, or questions, of each split.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit temperatures, likeness to photos and the thresholds of verdicts on dev data.

    Answers are fitted on DAQUAR dev and on those questions of COCO's val photos that the part of VQA v2 does not ask,
    captions on Flickr8k dev and COCO val. VQA v2 val, drawings of other kinds and all test splits stay unseen; the
    report has VQA v2 val's figures and those drawings'.
    """
    if not (model / "config.json").is_file():
        fail(f"{model} is no checkpoint folder")
    if not stamps.is_dir():
        typer.echo(
            f"there are no drawings in {stamps}, see --stamps; the fit goes without", err=True
        )

    from vlm.loading import load

    from .evaluation.trust_report import fit_and_store

    report = fit_and_store(model, lambda: load(model, device=device), data, stamps, photos, limit)
    if as_json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name}: {json.dumps(value)}")


if __name__ == "__main__":
    run_program(app)
