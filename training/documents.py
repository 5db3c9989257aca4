"""Measure how well a model uses documents beside a photo: `vlm documents [MODEL] --data DIR`

In a checkout `python -m training.documents` is the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device
from vlm.cli.failures import clear_errors, fail

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@clear_errors("train")
def documents(
    data: Annotated[Path, typer.Option(help="A folder of captioned photos, such as `coco`.")],
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", show_default="the bundled model", help="As for evaluate."),
    ] = None,
    data_format: Annotated[str, typer.Option("--format", help="As for evaluate.")] = "coco",
    split: Annotated[str, typer.Option(help="As for evaluate.")] = "val",
    questions: Annotated[int, typer.Option(min=1, help="How many, at most one a photo.")] = 500,
    seed: Annotated[int, typer.Option(help="What facts, passages and questions are drawn by.")] = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask about invented facts that passages tell, and print how often they are found, cited and missed."""
    from vlm.loading import load

    from .data.readers import read
    from .evaluation.invented_answers import measure

    captioner = load(model, device=device)
    photos: dict[str, list] = {}
    for record in read(data, data_format, split):
        if record.question is None:
            photos.setdefault(record.image.key, []).append(record)
    if not photos:
        fail(f"{data} has no captioned photos in its split {split}")
    # Photos come round again with other facts where there are fewer of them than questions.
    rounds = [own for _ in range(-(-3 * questions // len(photos))) for own in photos.values()]
    told = measure(captioner, rounds, questions, seed, lambda line: print(line, file=sys.stderr))
    if as_json:
        shares = [{**vars(s), "interval": vars(s.interval)} for s in told.shares]
        print(json.dumps({"shares": shares, "agreement": told.agreement}))
        return
    for share in told.shares:
        low, high = share.interval.low, share.interval.high
        print(f"{share.name:<62} {share.value:5.1f} %  [{low:.1f}, {high:.1f}]  of {share.count}")
    print(f"{'rank correlation of shares and losses':<62} {told.agreement:5.2f}")


if __name__ == "__main__":
    app()
