"""The text file beside each photo, where trainers of image generators look for its caption."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path


class Existing(StrEnum):
    """What becomes of a text that is there already."""

    skip = "skip"
    append = "append"
    prepend = "prepend"
    overwrite = "overwrite"


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


def write_texts(path: Path, texts: Sequence[str], existing: Existing, problems: list[str]) -> None:
    """Write captions, one a line, over, before or behind what a file holds. See `write_whole`.

    What is added joins the first line or the last, and what stands there already is not added again: a run that was
    stopped may be repeated.
    """
    if existing is Existing.skip and path.exists():
        return
    text = "\n".join(texts)
    if existing in (Existing.append, Existing.prepend) and path.exists():
        try:
            old = path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
            problems.append(f"{path} cannot be added to: {reason}")
            return
        if text in old:
            return
        text = _joined(old, text) if existing is Existing.append else _joined(text, old)
    write_whole(path, text + "\n", problems)


def _joined(first: str, second: str) -> str:
    """Two texts with a comma between them, where the first does not end a sentence."""
    if not first or not second:
        return first or second
    return f"{first} {second}" if first[-1] in ".,;:!?" else f"{first}, {second}"


def write_whole(
    path: Path, content: str | bytes, problems: list[str], like: Path | None = None
) -> None:
    """Write a whole file or none: a half-written one would pass for done at the next run.

    Dates, permissions and owner are those of the file `like`, if there is one. What cannot be written is added to
    `problems`; a full disk raises OSError, for the others would not fit either.
    """
    # A name of its own, and no longer one, for the photo's may be as long as names can be.
    part = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.part")
    try:
        if isinstance(content, str):
            part.write_text(content, encoding="utf-8")
        else:
            part.write_bytes(content)
        if like is not None:
            status = like.stat()
            with suppress(PermissionError):  # only root may give a file away
                os.chown(part, status.st_uid, status.st_gid)
            shutil.copystat(like, part)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        if error.errno == errno.ENOSPC:
            raise
        problems.append(f"{path} cannot be written: {error.strerror}")
