"""Everything that is written about a photo: its row in a table, the text beside it, its metadata."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlm.errors import UserError
from vlm.folder import photo_metadata
from vlm.folder.beside import Existing, one_text_each, text_file, write_texts
from vlm.folder.photo_metadata import Place, write_metadata
from vlm.folder.photo_table import METADATA, Table
from vlm.folder.wording import Wording

if TYPE_CHECKING:
    from vlm.answers import Answer


@dataclass(frozen=True)
class Said:
    """What a model, or a person after it, says about a photo: texts, best first, and how far to trust the first."""

    texts: tuple[str, ...]
    confidence: float
    score: float
    verdict: str | None

    @classmethod
    def of(cls, answer: Answer) -> Said:
        texts = (answer.text, *(other.text for other in answer.alternatives))
        return cls(texts, answer.confidence, answer.score, answer.verdict)


@dataclass(frozen=True)
class Where:
    """Where captions are written, and how.

    `table` is a .csv or .jsonl file, or one called metadata.jsonl; `texts` says what becomes of text files that are
    there, None writes none; `metadata` is where descriptions go, None writes none. With `overwrite` tables and metadata
    that are there are written over, too.
    """

    table: Path | None = None
    texts: Existing | None = None
    metadata: Place | None = None
    overwrite: bool = False
    wording: Wording = field(default_factory=Wording)

    def __bool__(self) -> bool:
        return not self.table is self.texts is self.metadata is None

    @contextmanager
    def open(self, captions: int = 1) -> Iterator[Writer]:
        """Begin, or go on with, what was written. Raises UserError where that cannot be."""
        if self.metadata is not None:
            photo_metadata.check_installed()
        if self.table is None:
            yield Writer(self, None)
            return
        with Table(self.table, columns(self.table, captions), overwrite=self.overwrite) as table:
            yield Writer(self, table)


class Writer:
    """Writes about photos, each whole before the next. See `Where.open`."""

    def __init__(self, where: Where, table: Table | None) -> None:
        self.where = where
        self.table = table

    def sort_out(self, files: Sequence[str], problems: list[str]) -> tuple[list[str], int]:
        """The files about which something is to be written, and how many have all of it already.

        A sentence on each file that has no place of its own to be written about is added to `problems`.
        """
        kept = one_text_each(files, problems) if self.where.texts is not None else list(files)
        if self.table is not None and self.table.path.name == METADATA:
            kept = [path for path in kept if self._is_below(path, problems)]
        todo = []
        for path in kept:
            try:
                if self._lacks(path):
                    todo.append(path)
            except UserError as error:
                problems.append(str(error))
        return todo, len(kept) - len(todo)

    def write(self, path: str, said: Said, problems: list[str]) -> tuple[str, ...]:
        """Write what is said about a photo; the texts as they were written."""
        where, count = self.where, len(problems)
        texts = tuple(where.wording(text, path) for text in said.texts)
        if where.texts is not None:
            write_texts(text_file(path), texts, where.texts, problems)
        if where.metadata is not None:
            write_metadata(path, texts[0], said.texts[0], where.metadata, where.overwrite, problems)
        # Last, because a row says that all is done.
        if self.table is not None and len(problems) == count and not self.table.has(path):
            self.table.add(path, _values(self.table, texts, said))
        return texts

    def _lacks(self, path: str) -> bool:
        """Whether something is still to be written about a photo."""
        where = self.where
        if not where:  # captions are only shown
            return True
        if self.table is not None:  # its row comes last: with it there is all the rest
            return not self.table.has(path)
        if where.texts is Existing.skip and not text_file(path).exists():
            return True
        if where.texts not in (None, Existing.skip):
            return True
        if where.metadata is None:
            return False
        return where.overwrite or bool(photo_metadata.missing(path, where.metadata))

    def _is_below(self, path: str, problems: list[str]) -> bool:
        assert self.table is not None
        below = not os.path.isabs(self.table.name(path))
        if not below:
            problems.append(
                f"{path}: {METADATA} names photos below its own folder; put it into a folder that holds this one"
            )
        return below


def columns(table: Path, captions: int) -> tuple[str, ...]:
    """The columns of a table of captions."""
    trust = ("confidence", "score", "verdict")
    if table.name == METADATA:  # as `datasets` reads image folders
        return ("file_name", "text", *(["texts"] if captions > 1 else []), *trust)
    if table.suffix.lower() == ".csv":
        return ("image", "caption", *(f"caption_{n}" for n in range(2, captions + 1)), *trust)
    return ("image", "caption", *(["captions"] if captions > 1 else []), *trust)


def _values(table: Table, texts: Sequence[str], said: Said) -> list[object]:
    """The values of a row behind the photo's name. Samples may coincide, so there may be fewer texts than places."""
    named = [c for c in table.columns[1:] if c.startswith(("caption", "text"))]
    own: list[object] = [texts[0]]
    if named[1:] in (["captions"], ["texts"]):
        own.append(list(texts))
    else:
        own += [texts[n] if n < len(texts) else None for n in range(1, len(named))]
    return [*own, round(said.confidence, 4), round(said.score, 4), said.verdict]
