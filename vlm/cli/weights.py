"""`vlm models`, `vlm convert` and `vlm export`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import AsJson, Model
from vlm.cli.failures import fail


def models(
    known: Annotated[
        bool,
        typer.Option(
            "--known", help="Published checkpoints that vlm reads, on this machine or not."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models on this machine: bundled ones, and those in the hub's cache that can be loaded."""
    from vlm.weights.hub import available
    from vlm.weights.known import KNOWN

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    if known:
        header = ("MODEL", "ALIAS", "SIZE", "TASKS", "LICENCE", "GOOD AT")
        rows = [
            (k.name, k.alias, f"{k.parameters} M", ", ".join(k.tasks), k.licence, k.good_at)
            for k in KNOWN
        ]
        records = [vars(k) for k in KNOWN]
    else:
        entries = available()
        header = ("MODEL", "SIZE", "TASKS", "LICENCE")
        rows = [(e.name, f"{e.size / 1e6:.1f} MB", ", ".join(e.tasks), e.licence) for e in entries]
        records = [{**vars(e), "folder": str(e.folder)} for e in entries]
    if as_json:
        for record in records:
            print(json.dumps(record), flush=True)
        return
    _print_table([header, *rows])


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip(), flush=True)


def convert(
    source: Annotated[
        str, typer.Argument(help="A folder or a hub id, e.g. Salesforce/blip-vqa-base.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
) -> None:
    """Convert a checkpoint of transformers or open_clip: Florence-2, BLIP, vision encoder-decoders, CoCa."""
    from vlm.weights.convert import convert
    from vlm.weights.hub import find

    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        fail(f"{out} is not empty; give a folder that is new")
    convert(find(source), out)
    typer.echo(f"{out} is written; use it with --model {out}", err=True)


def export(
    onnx: Annotated[Path, typer.Option(metavar="OUT", help="The folder to write ONNX graphs to.")],
    model: Model = None,
) -> None:
    """Write a model as ONNX graphs, which run without torch; docs/caption_with_onnx.py is an example."""
    from vlm.runtimes.onnx_export import export
    from vlm.weights.conversions import as_ours
    from vlm.weights.hub import find
    from vlm.weights.store import load_checkpoint

    if onnx.is_file() or (onnx.is_dir() and any(onnx.iterdir())):
        fail(f"{onnx} is not empty; give a folder that is new")
    with as_ours(find(model)) as folder:
        export(*load_checkpoint(folder), onnx)
    typer.echo(f"{onnx} is written", err=True)
