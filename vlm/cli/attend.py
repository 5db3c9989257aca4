"""`vlm attend`: words against words, of other libraries' encoder-decoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import AsJson
from vlm.cli.failures import fail


def attend(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A folder or hub id of a transformers encoder-decoder."
        ),
    ],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The text that it reads.")],
    target: Annotated[
        str | None,
        typer.Argument(metavar="TARGET", help="What it writes; by default its own words."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="One layer, counted from 0; by default the mean of all.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="One head, counted from 0; by default the mean of all.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The grid of words (.png), or its arrays (.npz)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which words of a source each target word drew on: a grid (--out), as JSON (--json), or both."""
    if out is None and not as_json:
        fail("give --out FILE.png for a grid, --json for its numbers, or both")
    from vlm.attend.alignment_picture import check_file, save_alignment
    from vlm.attend.source import gather_alignment
    from vlm.attend.text_pairs import load_text_model, read_pair

    if out is not None:
        check_file(out)
    pair = read_pair(*load_text_model(model), source, target)
    alignment = gather_alignment(pair, layer, head)
    if out is not None:
        save_alignment(out, alignment)
    if as_json:
        print(json.dumps(alignment.to_dict()), flush=True)
    else:
        print(" ".join(alignment.target), flush=True)
