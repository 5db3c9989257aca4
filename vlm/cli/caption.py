"""`vlm caption`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

# torch takes seconds to load: what needs it is imported inside the commands, and `vlm --help` is instant.
from vlm.answers import with_verdict
from vlm.cli.arguments import AsJson, Device, Int8, Model, OpenVino, given, load, search_options
from vlm.cli.failures import fail
from vlm.options import CAPTION, choose


@search_options(CAPTION)
def caption(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Photos, folders (all photos below them) or quoted globs ('photos/**/*.jpg').",
        ),
    ],
    model: Model = None,
    device: Device = "auto",
    openvino: OpenVino = False,
    int8: Int8 = False,
    as_json: AsJson = False,
    write_txt: Annotated[
        bool,
        typer.Option(
            "--write-txt", help="Write photo.txt beside photo.jpg; photos that have one are left."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --write-txt, replace files that exist.")
    ] = False,
    **search: Any,
) -> None:
    """Caption photos, one a line.

    A photo that cannot be read does not stop the others: it is named at the end, and the exit code is 1.
    """
    from vlm.bulk.folder import caption_files, one_text_each, text_file, without_text, write_text
    from vlm.images.files import find_images

    if overwrite and not write_txt:
        fail("--overwrite goes with --write-txt")
    options = given(search)
    choose(CAPTION, options)  # what is wrong is told before a model is loaded
    files, problems, left_out = find_images(images)
    if not files:
        fail("; ".join([*problems, str(left_out)] if left_out else problems))
    if write_txt:
        files = one_text_each(files, problems)
    if write_txt and not overwrite:
        todo = without_text(files)
        if len(todo) < len(files):
            done = len(files) - len(todo)
            typer.echo(f"{done} of {len(files)} photos have their text already", err=True)
        files = todo
    alone = len(images) == 1 and os.path.isfile(images[0])
    try:
        if files:
            from vlm.engine import Engine

            captioner = load(model, device, openvino, int8)
            with Engine(captioner) as engine, progress_bar(files) as taken:
                for path, answer in caption_files(engine, taken, problems, **options):
                    if write_txt:
                        write_text(text_file(path), answer.text, problems)
                    if as_json:
                        print(json.dumps({"image": path, **answer.to_dict()}), flush=True)
                    else:
                        said = with_verdict(answer.text, answer)
                        for text in (said, *(other.text for other in answer.alternatives)):
                            print(text if alone else f"{path}: {text}", flush=True)
    finally:
        if left_out:
            typer.echo(left_out, err=True)
        for problem in problems:
            typer.secho(f"error: {problem}", err=True, fg="red")
    if problems:
        raise typer.Exit(1)


@contextmanager
def progress_bar(files: list[str]) -> Iterator[Iterable[str]]:
    """The same files, with a bar on the error stream, where someone looks at it, of how many were taken."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=len(files) == 1 or not sys.stderr.isatty(),
        transient=True,
        # On one terminal the results scroll by above the bar; elsewhere stdout is not the bar's business.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        yield progress.track(files)
