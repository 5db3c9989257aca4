"""Measure how well a model uses documents beside a photo: `vlm documents [MODEL] --data DIR`

In a checkout `python -m training.documents` is the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm.cli.arguments import Device
from vlm.cli.failures import clear_errors, fail, run_program

if TYPE_CHECKING:
    from vlm.captioner import Captioner

    from .data.records import Record
    from .evaluation.invented_answers import Figures, Share

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
    captions: Annotated[
        bool,
        typer.Option(
            "--captions",
            help="Measure captions beside those of similar photos, drawn from the split train, in place of answers.",
        ),
    ] = False,
    questions: Annotated[
        int, typer.Option(min=1, help="How many, at most one a photo; with --captions photos.")
    ] = 500,
    seed: Annotated[int, typer.Option(help="What facts, passages and questions are drawn by.")] = 0,
    device: Device = "auto",
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Fit from where on answers beside documents are sure, and below what a guess, and store it in the "
            "checkpoint folder MODEL; --split train, as what is fitted on tells nothing.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask about invented facts that passages tell, and print how often they are found, cited and missed."""
    if fit and (captions or model is None or not (Path(model) / "config.json").is_file()):
        fail(
            "--fit stores what it finds in a checkpoint folder; name one, and leave --captions out"
        )
    from vlm.loading import load

    from .evaluation.invented_answers import measure

    captioner = load(model, device=device)
    _ = captioner.reading
    if fit and captioner.model.config.verdict is None:
        fail(f"{model} has no fit of verdicts yet; fit it with vlm calibrate before")
    photos = _captioned(data, data_format, split)
    if captions:
        known = _captioned(data, data_format, "train")
        _print_pairs(captioner, photos, known, questions, seed, as_json)
        return
    # Photos come round again with other facts where there are fewer of them than questions.
    rounds = [own for _ in range(-(-3 * questions // len(photos))) for own in photos]
    told = measure(captioner, rounds, questions, seed, _progress)
    if fit:
        assert model is not None
        _fit(Path(model), told)
    if as_json:
        print(json.dumps({"shares": _as_json(told.shares), "agreement": told.agreement}))
        return
    _print_shares(told.shares)
    print(f"{'rank correlation of shares and losses':<63} {told.agreement:5.2f}")


def _fit(folder: Path, told: Figures) -> None:
    """Store the limits of verdicts about answers beside documents in a checkpoint folder."""
    import numpy as np

    from .evaluation.trust import thresholds
    from .evaluation.trust_report import (
        GUESS_DOCUMENTS,
        SURE_DOCUMENTS,
        store_document_limits,
    )

    confidences, right = (np.array(values, dtype=float) for values in zip(*told.judged))
    sure, guess = thresholds(confidences, right, SURE_DOCUMENTS, GUESS_DOCUMENTS)
    store_document_limits(folder, sure, guess)
    typer.echo(
        f"sure from {sure:.3f} on, a guess below {guess:.3f}; verdicts below are by the limits before",
        err=True,
    )


def _captioned(data: Path, data_format: str, split: str) -> list[list[Record]]:
    """The captions of each photo of a split."""
    from .data.readers import read

    photos: dict[str, list[Record]] = {}
    for record in read(data, data_format, split):
        if record.question is None:
            photos.setdefault(record.image.key, []).append(record)
    if not photos:
        fail(f"{data} has no captioned photos in its split {split}")
    return list(photos.values())


def _print_pairs(
    captioner: Captioner,
    photos: list[list[Record]],
    known: list[list[Record]],
    count: int,
    seed: int,
    as_json: bool,
) -> None:
    from .evaluation.pair_captions import measure_pairs

    told = measure_pairs(captioner, photos, known, count, seed, _progress)
    low, high = told.difference.interval.low, told.difference.interval.high
    if as_json:
        gained = {"value": told.difference.value, "interval": {"low": low, "high": high}}
        print(json.dumps({"shares": _as_json(told.shares), "CIDEr": told.alone, "gained": gained}))
        return
    _print_shares(told.shares)
    gained_line = f"{told.difference.value:+.1f} [{low:.1f}, {high:.1f}]"
    print(f"CIDEr-D {told.alone:.1f} alone; beside captions of similar photos {gained_line}")


def _as_json(shares: Sequence[Share]) -> list[dict[str, Any]]:
    return [{**vars(share), "interval": vars(share.interval)} for share in shares]


def _print_shares(shares: Sequence[Share]) -> None:
    for share in shares:
        low, high = share.interval.low, share.interval.high
        print(f"{share.name:<63} {share.value:5.1f} %  [{low:.1f}, {high:.1f}]  of {share.count}")


def _progress(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    run_program(app)
