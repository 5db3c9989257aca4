"""`vlm pairs`: photos whose captions one knows, for the captions of photos like them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm.cli.arguments import AsJson, Device, Model, load
from vlm.cli.failures import clear_errors, fail
from vlm.options import Precision

if TYPE_CHECKING:
    from vlm.images import Photo

app = typer.Typer(
    no_args_is_help=True,
    help="Keep photos with captions of your own: vlm caption --pairs FILE then reads those of similar photos.",
)

PairsFile = Annotated[
    Path, typer.Option("--pairs", metavar="FILE", help="The store, one file that add makes.")
]
DEFAULT = Path("pairs.db")


def add(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Photos, folders (all photos below them) or globs."),
    ],
    caption: Annotated[
        str | None,
        typer.Option(help="What these photos show; by default the lines of photo.txt beside each."),
    ] = None,
    pairs: PairsFile = DEFAULT,
    model: Model = None,
    device: Device = "auto",
) -> None:
    """Keep photos with their captions; the same photo again gets its new ones.

    A photo without a caption, or that cannot be read, is named at the end.
    """
    from vlm.documents.photo_pairs import PhotoPairs
    from vlm.folder.beside import text_file
    from vlm.folder.pipeline import in_batches, model_threads
    from vlm.images.files import find_images

    files, problems, left_out = find_images(images)
    texts: dict[str, list[str]] = {}
    for path in files:
        try:
            said = caption or text_file(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            problems.append(f"{path} has no caption: write {text_file(path)}, or give --caption")
            continue
        if own := [line.strip() for line in said.splitlines() if line.strip()]:
            texts[path] = own
        else:
            problems.append(f"{path} has an empty caption; write some words")
    kept = 0
    if texts:
        captioner = load(model, device, False, Precision.float32)

        def vectors(photos: Sequence[Photo]) -> list[list[float]]:
            return [image.vector for image in captioner.encode_all(photos)]

        with (
            PhotoPairs.open(pairs, captioner.blank_vector, create=True) as store,
            model_threads(captioner) as submit,
        ):
            for path, vector in in_batches(captioner, submit, texts, vectors, problems):
                photo = str(Path(path).absolute())
                store.delete(photo)
                for text in texts[path]:
                    store.add(photo, vector, text)
                kept += len(texts[path])
            total = len(store)
        print(f"{pairs}: {kept} pairs more, {total} in all", flush=True)
    if left_out:
        typer.echo(left_out, err=True)
    for problem in problems:
        typer.secho(f"error: {problem}", err=True, fg="red")
    if problems:
        raise typer.Exit(1 if kept else 2)


def list_pairs(pairs: PairsFile = DEFAULT, as_json: AsJson = False) -> None:
    """List the photos with their captions."""
    from vlm.documents.photo_pairs import PhotoPairs

    with PhotoPairs.open(pairs) as store:
        for photo, caption in store.photos():
            line = {"image": photo, "caption": caption}
            print(json.dumps(line) if as_json else f"{photo}: {caption}", flush=True)


def remove(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Photos, as listed.")],
    pairs: PairsFile = DEFAULT,
) -> None:
    """Forget photos and their captions; the files themselves stay."""
    from vlm.documents.photo_pairs import PhotoPairs

    missing = []
    with PhotoPairs.open(pairs) as store:
        for image in images:
            if not store.delete(image) + store.delete(str(Path(image).absolute())):
                missing.append(image)
    if missing:
        fail(f"{pairs} has no {', '.join(missing)}; vlm pairs list shows what it has")


for command, run in (("add", add), ("list", list_pairs), ("remove", remove)):
    app.command(command)(clear_errors("documents")(run))
