"""`vlm caption`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# torch takes seconds to load: what needs it is imported inside the commands, and `vlm --help` is instant.
from vlm.answers import with_verdict
from vlm.cli.arguments import (
    AsJson,
    Device,
    InPrecision,
    Model,
    OpenVino,
    TraceTo,
    given,
    load,
    search_options,
    trace_file,
    tracer_of,
)
from vlm.cli.failures import fail
from vlm.folder.beside import Existing
from vlm.folder.photo_metadata import Place
from vlm.folder.photo_table import check_name
from vlm.folder.wording import Wording
from vlm.folder.written import Said, Where
from vlm.options import CAPTION, Precision, choose

if TYPE_CHECKING:
    from vlm.answers import Answer
    from vlm.captioner import Captioner


WRITING = "What is written"


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
    precision: InPrecision = Precision.float32,
    as_json: AsJson = False,
    trace: TraceTo = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read captions of similar photos, from a store of vlm pairs: names that they have may be used.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table, .csv or .jsonl (metadata.jsonl: as Hugging Face's image folders); photos in it are left.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    write_txt: Annotated[
        bool,
        typer.Option(
            "--write-txt",
            help="Write photo.txt beside photo.jpg; photos that have one are left.",
            rich_help_panel=WRITING,
        ),
    ] = False,
    existing: Annotated[
        Existing,
        typer.Option(help="With --write-txt: what becomes of a text.", rich_help_panel=WRITING),
    ] = Existing.skip,
    xmp: Annotated[
        Place | None,
        typer.Option(
            help="Write description and alt text as XMP: into photo.jpg.xmp, or into the photo.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace what is there: the table, the texts, the descriptions.",
            rich_help_panel=WRITING,
        ),
    ] = False,
    prefix: Annotated[
        str,
        typer.Option(
            help="Before each caption; {name} is the photo's name, {folder} its folder's.",
            rich_help_panel=WRITING,
        ),
    ] = "",
    suffix: Annotated[str, typer.Option(help="Behind each caption.", rich_help_panel=WRITING)] = "",
    trigger: Annotated[
        str,
        typer.Option(
            help="A word to begin with, where the caption has it not.", rich_help_panel=WRITING
        ),
    ] = "",
    **search: Any,
) -> None:
    """Caption photos, one a line or into files.

    A photo that cannot be read does not stop the others: it is named at the end, and the exit code is 1. The same
    command again does what is missing.
    """
    from vlm.images import ImageError
    from vlm.images.files import find_images

    options = given(search)
    chosen = choose(CAPTION, options)  # what is wrong is told before a model is loaded
    where = _where(out, write_txt, existing, xmp, overwrite, Wording(prefix, suffix, trigger))
    files, problems, left_out = find_images(images)
    if not files:
        fail("; ".join([*problems, str(left_out)] if left_out else problems))
    written = 0
    unread: list[str] = []
    with where.open(chosen.candidates) as writer, trace_file(trace) as file:
        todo, before = writer.sort_out(files, problems)
        if before:
            what = "are in the table" if out else "have their text" if write_txt else "have all"
            typer.echo(f"{before} of {before + len(todo)} photos {what} already", err=True)
        alone = len(images) == 1 and os.path.isfile(images[0])
        try:
            if todo:
                from vlm.folder.pipeline import caption_files, model_threads

                captioner = load(model, device, openvino, precision)
                tracer = tracer_of(file, captioner, model, openvino, precision)
                captioner.prompt(None)
                if pairs is not None:
                    _check_pairs(captioner, pairs)
                with model_threads(captioner, not openvino) as submit, progress_bar(todo) as taken:
                    for path, answer in caption_files(
                        captioner, submit, taken, unread, pairs, **options
                    ):
                        texts = writer.write(path, Said.of(answer), problems)
                        written += 1
                        if as_json:
                            print(json.dumps(_record(path, answer, texts)), flush=True)
                        elif out is None:
                            said = with_verdict(texts[0], answer)
                            for text in (said, *texts[1:]):
                                print(text if alone else f"{path}: {text}", flush=True)
                        if tracer is not None:
                            tracer.answered(answer, chosen, source=path)
                if tracer is not None:
                    for _ in unread:
                        tracer.failed(ImageError)
        finally:
            problems += unread
            if out is not None and not as_json:
                print(f"{out}: {written} captions more, {before} were there", flush=True)
            if left_out:
                typer.echo(left_out, err=True)
            for problem in problems:
                typer.secho(f"error: {problem}", err=True, fg="red")
    if problems:
        raise typer.Exit(1)


def _check_pairs(captioner: Captioner, pairs: Path) -> None:
    """Raise UserError where a model cannot read captions of a store."""
    from vlm.documents.photo_pairs import PhotoPairs

    _ = captioner.reading
    with PhotoPairs.open(pairs, captioner.blank_vector) as store:
        if not len(store):
            fail(f"{pairs} holds no pairs of photos and captions yet")


def _where(
    out: Path | None,
    write_txt: bool,
    existing: Existing,
    xmp: Place | None,
    overwrite: bool,
    wording: Wording,
) -> Where:
    """What the options say of files, as far as they go together."""
    if existing is not Existing.skip and not write_txt:
        fail("--existing goes with --write-txt")
    if overwrite and not (write_txt or out or xmp):
        fail("--overwrite goes with --out, --write-txt or --xmp")
    if overwrite and existing in (Existing.append, Existing.prepend):
        fail(f"--overwrite replaces texts, and --existing {existing} keeps them; give one")
    if out is not None:
        check_name(out)
    texts = None
    if write_txt:
        texts = Existing.overwrite if overwrite else existing
    return Where(out, texts, xmp, overwrite, wording)


def _record(path: str, answer: Answer, texts: Sequence[str]) -> dict[str, Any]:
    """The answer as JSON, with its texts as they are written."""
    record = {"image": path, **answer.to_dict(), "caption": texts[0]}
    for candidate, text in zip(record.get("candidates", ()), texts):
        candidate["caption"] = text
    return record


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
