"""The one record type that every reader makes and everything downstream takes."""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from vlm.errors import UserError

from .texts import NoText, real_text


class DataError(UserError):
    """Data that cannot be used; the message is one sentence that says what to do about it."""


@dataclass(frozen=True)
class Box:
    """A labelled rectangle in pixels of the image as stored; right and bottom are exclusive."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class ImageRef:
    """Where an image's bytes are: a file, a member of a tar shard, or bytes in memory."""

    path: str
    member: str | None = None  # name inside a tar shard
    data: bytes | None = None  # already in memory (datasets, parquet)

    def read(self) -> bytes:
        """Return the encoded image. Raises DataError when the file or the member is missing."""
        if self.data is not None:
            return self.data
        try:
            if self.member is None:
                return Path(self.path).read_bytes()
            return _read_member(self.path, self.member)
        except KeyError:
            reason = "the shard has no such file"
        except (OSError, tarfile.TarError) as error:
            reason = str(getattr(error, "strerror", None) or error)
        raise DataError(f"The image {self} cannot be read: {reason}.")

    @property
    def key(self) -> str:
        """A stable identity without reading the file: absolute path, `shard::member` or sha256."""
        if self.data is not None:
            return f"sha256:{hashlib.sha256(self.data).hexdigest()}"
        path = os.path.abspath(self.path)
        return path if self.member is None else f"{path}::{self.member}"

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}::{self.member}"


@dataclass(frozen=True)
class Record:
    """One training or evaluation example: an image with captions, or with a question and answers.

    `texts` is empty only where the source keeps its answers secret (an evaluation server's test
    split). Of the texts given, those that are none (see `texts.real_text`) are left out. Raises
    NoText where none is left, or the question is none.
    """

    image: ImageRef
    texts: tuple[str, ...]  # captions; or answers, one for each annotator (ten for VQA v2)
    question: str | None = None
    weight: float = 1.0
    boxes: tuple[Box, ...] = ()
    id: str = ""  # question or image id of the source, as its evaluation server expects
    source: str = ""  # name of the source, e.g. "flickr8k"
    kind: str = ""  # answer type or question type where the source has one
    synthetic: bool = False
    left_out: tuple[str, ...] = field(default=(), init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        what = "caption" if self.question is None else "answer"
        if self.question is not None:
            try:
                object.__setattr__(self, "question", real_text(self.question))
            except NoText as error:
                raise NoText(f"the question {error}") from None
        kept, left_out = [], []
        for number, text in enumerate(self.texts, 1):
            try:
                kept.append(real_text(text, is_answer=self.question is not None))
            except NoText as error:
                place = f" {number} of {len(self.texts)}" if len(self.texts) > 1 else ""
                left_out.append(f"the {what}{place} {error}")
        if left_out and not kept:
            raise NoText("; ".join(left_out[:3]))
        object.__setattr__(self, "texts", tuple(kept))
        object.__setattr__(self, "left_out", tuple(left_out))


def _read_member(path: str, member: str) -> bytes:
    offset, size = _tar_index(path, os.stat(path).st_mtime_ns)[member]
    with open(path, "rb") as shard:
        shard.seek(offset)
        return shard.read(size)


@lru_cache(maxsize=256)
def _tar_index(path: str, modified_ns: int) -> dict[str, tuple[int, int]]:
    """Map each member to its (offset, size), so that random reads need no scan of the shard.

    `modified_ns` is part of the cache key only: a shard written anew is indexed anew.
    """
    whole = os.path.getsize(path)
    members = {}
    with tarfile.open(path, "r:") as shard:
        try:
            for entry in shard:
                if entry.isfile() and entry.offset_data + entry.size <= whole:
                    members[entry.name] = (entry.offset_data, entry.size)
        except tarfile.ReadError:  # a truncated shard still gives the members that are whole
            pass
    return members
