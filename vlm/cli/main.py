"""The command line: `vlm caption`, `vlm ask`, `vlm explain`, `vlm models` and more.

Results go to stdout and everything else to stderr; the exit codes are those of `vlm.cli.failures`.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# torch takes seconds to load: what needs it is imported inside the commands, and `vlm --help` is instant.
from vlm import __version__
from vlm.answers import answer_line, answer_record, caption_record
from vlm.cli.arguments import Int8, Model, OpenVino
from vlm.cli.caption_dataset import caption_dataset
from vlm.cli.failures import clear_errors, fail

if TYPE_CHECKING:
    from PIL import Image

    from vlm.captioner import Answer, Captioner

# Photos of a batch are in memory together; a batch ends at this many pixels (3 bytes each).
BATCH_PIXELS = 100_000_000

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Captions and answers that show where the model looked, word by word.",
)

Picture = Annotated[Path, typer.Argument(metavar="IMAGE", help="A photo.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vlm {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    # A file name must not stop a run: what is not UTF-8 goes out as the bytes that came in, and what the output's
    # encoding lacks as its number.
    if isinstance(sys.stdout, io.TextIOWrapper):
        whole = sys.stdout.encoding.lower() in ("utf-8", "utf8")
        sys.stdout.reconfigure(errors="surrogateescape" if whole else "backslashreplace")


@app.command()
@clear_errors()
def caption(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Photos, folders (all photos below them) or quoted globs ('photos/**/*.jpg').",
        ),
    ],
    model: Model = None,
    beams: Annotated[
        int | None, typer.Option(help="Beams of the search, 3 by default; 1 is greedy.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Distinct captions for each photo, best first; 1 by default.")
    ] = None,
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
) -> None:
    """Caption photos, one a line.

    A photo that cannot be read does not stop the others: it is named at the end, and the exit code is 1.
    """
    if overwrite and not write_txt:
        fail("--overwrite goes with --write-txt")
    from vlm.images.files import find_images

    files, problems = find_images(images)
    if not files:
        fail("; ".join(problems))
    if write_txt:
        files = _without_text(files, overwrite, problems)
    try:
        if files:
            given = {"beams": beams, "candidates": candidates}
            options = {name: value for name, value in given.items() if value is not None}
            alone = len(images) == 1 and os.path.isfile(images[0])
            captioner = _load(model, openvino, int8)
            for path, answer in _captions(captioner, files, options, problems):
                if write_txt:
                    _write(_text_file(path), answer.text, problems)
                if as_json:
                    print(json.dumps(caption_record(path, answer)), flush=True)
                else:
                    for text in (answer.text, *(other.text for other in answer.alternatives)):
                        print(text if alone else f"{path}: {text}", flush=True)
    finally:
        for problem in problems:
            typer.secho(f"error: {problem}", err=True, fg="red")
    if problems:
        raise typer.Exit(1)


@app.command()
@clear_errors()
def ask(
    image: Picture,
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="One or several, each quoted.")
    ],
    model: Model = None,
    openvino: OpenVino = False,
    int8: Int8 = False,
    as_json: AsJson = False,
) -> None:
    """Answer questions about a photo, with the confidence of each answer and its alternatives."""
    picture = _read(image)
    for answer in _load(model, openvino, int8).encode(picture).ask_all(questions):
        if as_json:
            print(json.dumps(answer_record(str(image), answer)), flush=True)
        else:
            print(answer_line(answer, with_question=len(questions) > 1), flush=True)


@app.command()
@clear_errors()
def explain(
    image: Picture,
    question: Annotated[
        str | None, typer.Option(help="Explain the answer to this, not a caption.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Explain this text, not the model's own.")
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="One cross-attention layer, counted from 0; by default the mean of all."),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(help="One attention head, counted from 0; by default the mean of all."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="The picture of all words to write.")
    ] = None,
    model: Model = None,
    openvino: OpenVino = False,
    int8: Int8 = False,
    as_json: AsJson = False,
) -> None:
    """Show where the model looked for each word: a picture of all words (--out), their maps (--json), or both."""
    if out is None and not as_json:
        fail("give --out FILE.png for a picture, --json for the maps, or both")
    if out is not None and out.suffix.lower() != ".png":
        fail(f"--out must name a .png file, not {out.name!r}")
    picture = _read(image)
    encoded = _load(model, openvino, int8).encode(picture)
    if text is not None:
        answer = encoded.explain(text, question)
    elif question is not None:
        answer = encoded.ask(question)
    else:
        answer = encoded.caption()
    try:
        maps = answer.maps(layer, head)
    except ValueError as error:  # no such layer or head
        fail(str(error))
    if out is not None:
        from vlm.explain.overlay import sheet

        sheet(encoded.picture, encoded.frame, maps).save(out)
    if as_json:
        words = [
            {"text": m.text, "role": m.role, "grid": list(m.grid), "map": m.weights.tolist()}
            for m in maps
        ]
        print(json.dumps({"image": str(image), "text": answer.text, "words": words}), flush=True)
    else:
        print(answer.text, flush=True)


@app.command()
@clear_errors()
def models(as_json: AsJson = False) -> None:
    """List the models on this machine: bundled ones, and those in the hub's cache that can be loaded."""
    from vlm.weights.hub import available

    entries = available()
    if as_json:
        for entry in entries:
            record = {**vars(entry), "folder": str(entry.folder), "tasks": list(entry.tasks)}
            print(json.dumps(record), flush=True)
        return
    rows = [("MODEL", "SIZE", "TASKS", "LICENCE")]
    for entry in entries:
        size = f"{entry.size / 1e6:.1f} MB"
        rows.append((entry.name, size, ", ".join(entry.tasks), entry.licence))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip(), flush=True)


@app.command()
@clear_errors()
def convert(
    source: Annotated[
        str, typer.Argument(help="A folder or a hub id, e.g. Salesforce/blip-vqa-base.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
) -> None:
    """Convert a checkpoint of transformers or open_clip: BLIP, vision encoder-decoders, CoCa."""
    from vlm.weights.convert import convert
    from vlm.weights.hub import find

    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        fail(f"{out} is not empty; give a folder that is new")
    convert(find(source), out)
    typer.echo(f"{out} is written; use it with --model {out}", err=True)


app.command()(clear_errors()(caption_dataset))

# Commands of what this package does not import, such as training's `vlm evaluate`.
for command in entry_points(group="vlm.commands"):
    app.command(command.name)(command.load())


def _text_file(path: str) -> Path:
    return Path(path).with_suffix(".txt")


def _without_text(files: list[str], overwrite: bool, problems: list[str]) -> list[str]:
    """Files whose caption is still to be written."""
    owners: dict[Path, str] = {}
    todo, done = [], 0
    for path in files:
        text_file = _text_file(path)
        owner = owners.setdefault(text_file, path)
        if owner != path:
            problems.append(f"{path}: {text_file} is already the text of {owner}; rename one")
        elif text_file.exists() and not overwrite:
            done += 1
        else:
            todo.append(path)
    if done:
        typer.echo(f"{done} of {len(files)} photos have their text already", err=True)
    return todo


def _write(path: Path, text: str, problems: list[str]) -> None:
    """Write a whole file or none: a half-written one would pass for done at the next run.

    One that cannot be written is a problem; a full disk raises OSError, for the others would not fit either.
    """
    # A name of its own, and no longer one, for the photo's may be as long as names can be.
    part = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.part")
    try:
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        if error.errno == errno.ENOSPC:
            raise
        problems.append(f"{path} cannot be written: {error.strerror}")


def _load(name: str | None, openvino: bool, int8: bool) -> Captioner:
    # Hardly an object of an import is ever freed: looking for those takes a quarter of the time, at the end again.
    gc.disable()
    from vlm.captioner import load

    gc.freeze()
    gc.enable()
    return load(name, openvino=openvino, int8=int8)


def _read(image: Path) -> Image.Image:
    """The photo, read before the model is loaded, so that a bad path is told at once."""
    from vlm.images import load_image

    if not os.path.exists(image):
        fail(f"{image}: no such file")
    return load_image(image)


def _captions(
    captioner: Captioner, files: Sequence[str], options: dict[str, Any], problems: list[str]
) -> Iterator[tuple[str, Answer]]:
    """Each readable file with its caption, in order, a batch at a time; the others are added to `problems`."""
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
        for batch in _batches(progress.track(files), problems):
            answers = captioner.caption([picture for _, picture in batch], **options)
            yield from zip((path for path, _ in batch), answers)


def _batches(files: Iterable[str], problems: list[str]) -> Iterator[list[tuple[str, Image.Image]]]:
    """Readable files and their pictures, as many as are captioned together."""
    from vlm.captioner import BATCH
    from vlm.images import ImageError, load_image

    batch: list[tuple[str, Image.Image]] = []
    pixels = 0
    for path in files:
        try:
            picture = load_image(path)
        except ImageError as error:
            problems.append(str(error))
            continue
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
            continue
        batch.append((path, picture))
        pixels += picture.width * picture.height
        if len(batch) == BATCH or pixels >= BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch
