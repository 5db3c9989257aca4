"""Tables of what was said about photos: CSV, JSON lines, and the `metadata.jsonl` of Hugging Face's image folders.

A table grows by a whole line for each photo, in the order of the photos, and the next run goes on behind the last. What
a run that was killed left of half a line is cut off.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vlm.errors import UserError

METADATA = "metadata.jsonl"


class TableError(UserError):
    """A file that cannot be gone on with, or not as it is asked for."""


class Table:
    """A table on disk, open for more rows; a context manager.

    `columns` are those of its rows; the first names the photo, relative to the table where it lies below it, so both
    may be moved. `fixed` are values that all rows share, such as a question: rows with others are another run's.
    With `overwrite` it begins anew. Raises TableError where the file is no such table.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        fixed: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._format: _Format = _Csv() if path.suffix.lower() == ".csv" else _JsonLines()
        self._place = os.path.dirname(os.path.abspath(path))
        self._done: set[str] = set()
        try:
            self._file = open(path, "w+b" if overwrite or not path.exists() else "r+b")  # noqa: SIM115
            self._go_on(fixed or {})
        except OSError as error:
            raise TableError(f"{path} cannot be written: {error.strerror}") from None
        self.before = len(self._done)

    def has(self, photo: str) -> bool:
        """Whether a file has its row."""
        return os.path.abspath(photo) in self._done

    def name(self, photo: str) -> str:
        """How a file is named in the table."""
        whole = os.path.abspath(photo)
        below = os.path.commonpath([whole, self._place]) == self._place
        return os.path.relpath(whole, self._place).replace(os.sep, "/") if below else whole

    def add(self, photo: str, values: Sequence[Any]) -> None:
        """Write the row of a file: what stands in the columns behind its name."""
        self._file.write(self._format.line(self.columns, [self.name(photo), *values]))
        self._file.flush()
        self._done.add(os.path.abspath(photo))

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _go_on(self, fixed: Mapping[str, str]) -> None:
        """Take up what is there, and stand behind its last whole row."""
        end = 0
        for place, row in self._format.rows(self._file, self.columns, self.path):
            end = place
            if row is None:  # a header
                continue
            for column, value in fixed.items():
                if row.get(column) != value:
                    raise TableError(
                        f"{self.path} has rows of another {column}, {row.get(column)!r}; give a new file or --overwrite"
                    )
            name = row.get(self.columns[0])
            if not isinstance(name, str):
                raise TableError(
                    f"{self.path} has a row without {self.columns[0]!r}; give a new file or --overwrite"
                )
            self._done.add(os.path.abspath(os.path.join(self._place, name)))
        self._file.seek(end)
        self._file.truncate()
        if end == 0:
            self._file.write(self._format.header(self.columns))
            self._file.flush()


class _Format(Protocol):
    """How rows are spelled. `rows` yields each whole row, None for a header, with the byte behind it."""

    def header(self, columns: Sequence[str]) -> bytes: ...

    def line(self, columns: Sequence[str], values: Sequence[Any]) -> bytes: ...

    def rows(
        self, file: io.BufferedRandom, columns: Sequence[str], path: Path
    ) -> Iterator[tuple[int, dict[str, Any] | None]]: ...


class _Csv:
    """Names of files may have line breaks, and bytes that are not UTF-8."""

    def header(self, columns: Sequence[str]) -> bytes:
        return self._line(columns)

    def line(self, columns: Sequence[str], values: Sequence[Any]) -> bytes:
        return self._line(["" if value is None else value for value in values])

    def _line(self, values: Sequence[Any]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue().encode("utf-8", "surrogateescape")

    def rows(
        self, file: io.BufferedRandom, columns: Sequence[str], path: Path
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        end = 0

        def lines() -> Iterator[str]:
            nonlocal end
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")

        header = None
        try:
            for values in csv.reader(lines(), strict=True):
                if header is None:
                    header = values
                    if tuple(header) != tuple(columns):
                        raise TableError(
                            f"{path} has the columns {', '.join(header)}, and not {', '.join(columns)}; "
                            "give a new file or --overwrite"
                        )
                    yield end, None
                elif values:
                    yield end, dict(zip(header, values))
        except csv.Error as error:
            if "end of data" in str(error):  # a half row, which ends inside of a quoted text
                return
            raise TableError(
                f"{path} is no CSV file from byte {end} on: {error}; give a new file or --overwrite"
            ) from None


class _JsonLines:
    def header(self, columns: Sequence[str]) -> bytes:
        return b""

    def line(self, columns: Sequence[str], values: Sequence[Any]) -> bytes:
        row = {column: value for column, value in zip(columns, values) if value is not None}
        return json.dumps(row).encode() + b"\n"

    def rows(
        self, file: io.BufferedRandom, columns: Sequence[str], path: Path
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        end = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise TableError(
                    f"line {number} of {path} is no JSON object; give a new file or --overwrite"
                )
            yield end, row


def check_name(path: Path, endings: Sequence[str] = (".csv", ".jsonl")) -> None:
    """Raise TableError where a file's name does not say what kind of table it is, or there is no such folder."""
    if path.suffix.lower() not in endings:
        raise TableError(
            f"a table is a file that ends in {' or '.join(endings)}, not {path.name!r}"
        )
    if not path.absolute().parent.is_dir():
        raise TableError(f"{path} cannot be written: there is no folder {path.parent}")
