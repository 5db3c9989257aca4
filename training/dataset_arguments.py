"""How the commands of training are told of a dataset: the arguments that name it, and reading what they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .data.records import Record
    from .data.report import Report

Format = Annotated[
    str | None,
    typer.Option(help="Its format, such as coco or kohya; else detected. A wrong name lists all."),
]
Images = Annotated[Path | None, typer.Option(help="The image folder, if not beside the texts.")]
ReaderOptions = Annotated[
    list[str] | None, typer.Option("--option", help="An argument of the reader, as name=value.")
]


def read_all(
    path: str,
    format: str | None,
    split: str,
    images: Path | None,
    option: list[str] | None,
    report: Report,
) -> list[Record]:
    """Read a split; `option` holds name=value pairs, whose values may be JSON. Raises DataError."""
    from .data.readers import read
    from .data.records import DataError

    options: dict[str, Any] = {}
    for pair in option or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise DataError(f"The option {pair!r} must be name=value.")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return list(read(path, format, split, images, report, **options))
