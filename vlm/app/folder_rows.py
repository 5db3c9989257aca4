"""The rows of the Folder tab: which are in sight and in what order, find and replace, and taking back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import regex

from vlm.errors import UserError
from vlm.folder.written import Said
from vlm.typed import FieldError, fit_fields

Order = Literal["folder", "caption", "length", "confidence", "verdict"]
ORDERS = get_args(Order)
TRUST = ("guess", "unsure", "sure")  # by what is to be looked at first
PATIENCE = 2.0  # seconds for all rows; some expressions take longer than the world


class SheetError(UserError):
    """What a person asked of the table that cannot be done; the message says why."""


@dataclass(frozen=True)
class Row:
    """A photo, called `name` below its folder, what the model said and what it is to be called: `caption`.

    `problem` says why there is no caption, where it was tried.
    """

    name: str
    path: str
    said: Said | None = None
    caption: str = ""
    problem: str | None = None

    @property
    def edited(self) -> bool:
        """Whether a person changed what the model said."""
        return self.said is not None and self.caption != self.said.texts[0]

    @property
    def confidence(self) -> float | None:
        """How sure the model was of a word, in 0..1: the geometric mean, for whole captions have all but none."""
        return None if self.said is None else min(1.0, math.exp(self.said.score))

    @property
    def words(self) -> int:
        return len(self.caption.split())


@dataclass(frozen=True)
class Query:
    """Which rows are wanted, and in what order. Rows without a caption match where nothing is asked of captions.

    `text` is looked for in the caption and the name, whatever its case; `shortest` and `longest` count words, `least`
    and `most` are of `Row.confidence`, in 0..1.
    """

    text: str = ""
    shortest: int = 0
    longest: int | None = None
    least: float = 0.0
    most: float = 1.0
    verdicts: tuple[str, ...] = ()
    order: Order = "folder"
    descending: bool = False

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Query:
        """The query of a page's fields. Raises SheetError for a value that is none."""
        try:
            return cls(**fit_fields(cls, {**asked, "verdicts": tuple(asked.get("verdicts", ()))}))
        except FieldError as error:
            raise SheetError(str(error)) from None

    def matches(self, row: Row) -> bool:
        wanted = self.text.casefold()
        if wanted not in row.caption.casefold() and wanted not in row.name.casefold():
            return False
        if row.said is None or row.confidence is None:
            asks_more = self.shortest > 0 or self.least > 0 or self.longest is not None
            return not asks_more and self.most >= 1 and not self.verdicts
        if row.words < self.shortest or (self.longest is not None and row.words > self.longest):
            return False
        if not self.least <= row.confidence <= self.most:
            return False
        return not self.verdicts or row.said.verdict in self.verdicts

    def key(self, row: Row) -> Any:
        """What rows are sorted by; None for those that have it not."""
        if self.order == "folder":
            return 0
        if row.said is None:
            return None
        if self.order == "caption":
            return row.caption.casefold()
        if self.order == "length":
            return row.words
        if self.order == "confidence":
            return row.confidence
        return TRUST.index(row.said.verdict) if row.said.verdict in TRUST else None


@dataclass(frozen=True)
class Change:
    """A caption before and after find and replace."""

    row: int
    before: str
    after: str


class Sheet:
    """The rows, in the folder's order, and what was changed, to take it back."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows = list(rows)
        self._changes: list[list[Change]] = []

    def shown(self, query: Query) -> list[int]:
        """The numbers of the rows that match, in the order that is asked for; equal ones in the folder's.

        Those that have nothing to be sorted by come last, backwards, too.
        """
        keys = {n: query.key(row) for n, row in enumerate(self.rows) if query.matches(row)}
        sortable = [number for number, key in keys.items() if key is not None]
        last = [number for number, key in keys.items() if key is None]
        return sorted(sortable, key=keys.__getitem__, reverse=query.descending) + last

    def said(self, number: int, said: Said) -> None:
        """Take up what the model says of a photo; a rerun takes the place of what it said, and of edits."""
        row = self.rows[number]
        self.rows[number] = replace(row, said=said, caption=said.texts[0], problem=None)

    def failed(self, number: int, problem: str) -> None:
        """Take up why a photo has no caption."""
        self.rows[number] = replace(self.rows[number], problem=problem)

    def edit(self, number: int, caption: str) -> None:
        """Change one caption. Raises SheetError where there is no such row, or it has none yet."""
        if not 0 <= number < len(self.rows) or self.rows[number].said is None:
            raise SheetError("that photo has no caption to change yet")
        caption = " ".join(caption.split())
        before = self.rows[number].caption
        if caption != before:
            self.apply([Change(number, before, caption)])

    def replacements(
        self, numbers: Sequence[int], find: str, by: str, regular: bool
    ) -> list[Change]:
        """What find and replace would change in some rows; nothing is changed yet.

        With `regular` `find` is a regular expression and `by` may name its groups (`\\1`). Raises SheetError where it
        is none, or takes too long.
        """
        if not find:
            raise SheetError("say what to find")
        try:
            pattern = regex.compile(find if regular else regex.escape(find))
            changes = []
            for number in numbers:
                before = self.rows[number].caption
                with_what = by if regular else by.replace("\\", r"\\")
                after = " ".join(pattern.sub(with_what, before, timeout=PATIENCE).split())
                if after != before:
                    changes.append(Change(number, before, after))
        except regex.error as error:
            raise SheetError(f"{find!r} is no regular expression: {error}") from None
        except IndexError:
            raise SheetError(f"{by!r} names a group that {find!r} has not") from None
        except TimeoutError:
            raise SheetError(f"{find!r} takes too long; write a simpler expression") from None
        return changes

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes that `undo` takes back together."""
        for change in changes:
            self.rows[change.row] = replace(self.rows[change.row], caption=change.after)
        if changes:
            self._changes.append(list(changes))

    @property
    def can_undo(self) -> bool:
        return bool(self._changes)

    def undo(self) -> int:
        """Take back the last changes, but of captions that were written anew since; how many were taken back."""
        if not self._changes:
            raise SheetError("there is nothing to take back")
        taken = 0
        for change in self._changes.pop():
            if self.rows[change.row].caption == change.after:
                self.rows[change.row] = replace(self.rows[change.row], caption=change.before)
                taken += 1
        return taken
