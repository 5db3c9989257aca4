"""Text files, JSON, JSON lines and tables, read so that one bad line costs no other."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .records import DataError
from .rows import RowError, entries, printable, shown

LONGEST_CELL = 50  # lines over which a quoted cell of a table may run

# A row with its place, or what is wrong with it.
Rows = list[tuple[str, Any]]

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PACKED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7zXZ": "xz"}


def read_text(path: Path) -> str:
    """Return a text file without its byte order mark, with lines that end in "\\n".

    UTF-8, or UTF-16 where the mark says so. Bytes that are not UTF-8 become characters that no
    text may have (see `texts.real_text`), so that they cost their own text. Raises DataError.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"The file {path} is missing.") from None
    except OSError as error:
        raise DataError(f"The file {path} cannot be read: {error.strerror}.") from None
    for start, name in _PACKED.items():
        if data.startswith(start) and b"\0" in data[:64]:
            raise DataError(f"The file {path} is packed ({name}); unpack it first.")
    if not data.startswith(_UTF16) and data[:1000].count(0) > len(data[:1000]) // 4:
        raise DataError(f"The file {path} is no UTF-8 text; save it as UTF-8.")
    return decode_text(data)


def decode_text(data: bytes) -> str:
    """The text that bytes hold, as `read_text` returns it."""
    if data.startswith(_UTF16):
        text = data.decode("utf-16", "replace")
    else:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Return the stripped, non-empty lines of a text file. Raises DataError."""
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[str, str]]:
    """The same with the place of each line, "line 1" being the first. Raises DataError."""
    lines = enumerate(read_text(path).split("\n"), 1)
    return [(f"line {number}", line.strip()) for number, line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises DataError."""
    text = read_text(path)
    try:
        return parse_json(text)
    except RowError as error:
        raise DataError(f"The file {path} is not valid JSON: {error}.") from None


def parse_json(text: str) -> Any:
    """Return the value that a JSON text writes. Raises RowError, which says where it goes wrong."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos :].split("\n")[0].strip()
        if not text[error.pos :].strip():
            raise RowError(f"it ends too early, at line {error.lineno}") from None
        place = f"line {error.lineno}, column {error.colno}"
        raise RowError(f"it goes wrong at {place}: {shown(rest[:40])}") from None
    except (ValueError, RecursionError):  # a number of too many digits, or lists in lists in lists
        raise RowError("it holds a number or a nesting that is too long to read") from None


def read_json_rows(path: Path) -> Rows:
    """Return the rows of a JSON file that holds a list, or of a file with one JSON value a line.

    Which of the two it is shows in the content, whatever the name says. Raises DataError.
    """
    text = read_text(path)
    try:
        content = parse_json(text)
    except RowError as error:
        rows = _json_lines(text)
        objects = [place for place, row in rows if isinstance(row, dict)]
        if objects and (path.suffix == ".jsonl" or objects[0] == rows[0][0]):
            return rows
        raise DataError(f"The file {path} is not valid JSON: {error}.") from None
    if path.suffix == ".jsonl" and not isinstance(content, list):
        return _json_lines(text)  # of which there is one
    if not isinstance(content, list):
        raise DataError(f"The file {path} must hold a list of rows.")
    return list(entries(content))


def _json_lines(text: str) -> Rows:
    lines = enumerate(text.split("\n"), 1)
    return [(f"line {number}", _json_line(line)) for number, line in lines if line.strip()]


def _json_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return RowError(f"it is no JSON: {shown(line.strip()[:40])}")


def read_table(path: Path, columns: Sequence[str] | None = None) -> tuple[list[str], Rows]:
    """Return the columns of a CSV file and its rows, each a list with a cell for each column.

    The columns are those of the first line, the header, unless `columns` names them. The delimiter
    (comma, semicolon, tab or bar) is the one that the first line has most of. A row of
    too many or too few cells, and one with a quotation mark that is not closed, is a RowError.
    Raises DataError.
    """
    lines = read_text(path).split("\n")
    start = next((i for i, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise DataError(f"The file {path} is empty.")
    delimiter = max(",;\t|", key=lines[start].count)
    if columns is None:
        header = next(csv.reader([printable(lines[start])], delimiter=delimiter))
        columns = [cell.strip() for cell in header]
        start += 1
    return list(columns), list(_table_rows(lines, start, columns, delimiter))


def _table_rows(
    lines: list[str], at: int, columns: Sequence[str], delimiter: str
) -> Iterator[tuple[str, list[str] | RowError]]:
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        place = f"line {at + 1}"
        cells, length = _one_row(lines, at, len(columns), delimiter)
        if not any(map(str.strip, cells[len(columns) :])):  # delimiters at the end of a line
            cells = cells[: len(columns)]
        if len(cells) == len(columns):
            yield place, cells
        elif not cells:
            yield place, RowError("it has a quotation mark that is not closed")
        else:
            yield place, RowError(_miscounted(cells, columns, delimiter))
        at += length


def _one_row(lines: list[str], at: int, count: int, delimiter: str) -> tuple[list[str], int]:
    """Return the cells of the row that starts at a line, and over how many lines it runs."""
    if '"' not in lines[at]:
        return lines[at].split(delimiter), 1
    below = [f"{line}\n" for line in lines[at : at + LONGEST_CELL]]
    several = csv.reader(below, delimiter=delimiter, strict=True)
    try:
        cells = next(several)
        if len(cells) == count or several.line_num == 1:
            return cells, several.line_num
    except csv.Error:  # a quotation mark inside a cell, or one that is not closed
        pass
    lenient = csv.reader(below[:2], delimiter=delimiter)
    try:
        cells = next(lenient)
    except csv.Error:  # a cell of more than 128 kB
        return [], 1
    return (cells, 1) if lenient.line_num == 1 else ([], 1)


def _miscounted(cells: Sequence[str], columns: Sequence[str], delimiter: str) -> str:
    name = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}[delimiter]
    many = len(cells) - len(columns)
    counted = f"{abs(many)} {name}s" if abs(many) > 1 else f"a {name}"
    listed = ", ".join(columns[:6])
    if many < 0:
        return f"it has {counted} too few for the columns {listed}"
    return f"it has {counted} too many for the columns {listed}; put such a text in quotes"
