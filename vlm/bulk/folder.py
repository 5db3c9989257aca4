"""Captions of image files, a batch at a time, and the text files beside them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from vlm.answers import Answer
    from vlm.captioner import Captioner
    from vlm.engine import Engine, Job


def caption_files(
    engine: Engine, files: Iterable[str], problems: list[str], **options: Any
) -> Iterator[tuple[str, Answer]]:
    """Each readable file with its caption, in order; a sentence on each of the others is added to `problems`.

    `options` are those of `vlm.Options`. A batch of files is read while the engine writes the captions of the one
    before, so whoever counts them as they are taken sees how far it is.
    """
    captioner = engine.captioner
    owner = object()
    ahead: tuple[list[str], Job[list[Answer]]] | None = None
    for batch in _batches(captioner, files, problems):
        pictures = [picture for _, picture in batch]
        job = engine.call(owner, partial(captioner.caption, pictures, **options))
        if ahead is not None:
            yield from zip(ahead[0], ahead[1].result())
        ahead = [path for path, _ in batch], job
    if ahead is not None:
        yield from zip(ahead[0], ahead[1].result())


def _batches(
    captioner: Captioner, files: Iterable[str], problems: list[str]
) -> Iterator[list[tuple[str, Image.Image]]]:
    """Readable files and their pictures, as many as are captioned together."""
    from vlm.captioner import BATCH
    from vlm.images import ImageError, load_image

    batch: list[tuple[str, Image.Image]] = []
    for path in files:
        try:
            # In the model's size at once, so that one photo is in memory as it was taken, and not a batch of them.
            picture = captioner.preprocess.resized(load_image(path))
        except ImageError as error:
            problems.append(str(error))
            continue
        batch.append((path, picture))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def text_file(path: str) -> Path:
    """Where the caption of an image file is written."""
    return Path(path).with_suffix(".txt")


def one_text_each(files: Iterable[str], problems: list[str]) -> list[str]:
    """The files that have a text file to themselves; a sentence on each of the others is added to `problems`."""
    owners: dict[Path, str] = {}
    kept = []
    for path in files:
        text = text_file(path)
        owner = owners.setdefault(text, path)
        if path.lower().endswith(".txt"):
            problems.append(f"{path}: its text would be written over the image; rename it")
        elif owner != path:
            problems.append(f"{path}: {text} is already the text of {owner}; rename one")
        else:
            kept.append(path)
    return kept


def without_text(files: Iterable[str]) -> list[str]:
    """The files whose caption is still to be written."""
    return [path for path in files if not text_file(path).exists()]


def write_text(path: Path, text: str, problems: list[str]) -> None:
    """Write a whole file or none: a half-written one would pass for done at the next run.

    One that cannot be written is added to `problems`; a full disk raises OSError, for the others would not fit either.
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
