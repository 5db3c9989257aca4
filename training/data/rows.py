"""Records out of the rows of a file: a fault costs its row, and is told in words of the data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from .records import DataError, Record
from .report import Broken, Report
from .texts import NoText, kind_of

Row = TypeVar("Row")
Value = TypeVar("Value")

_NUMBER = re.compile(r"0*(\d+)(?:\.0+)?", re.ASCII)


class RowError(ValueError):
    """What is wrong with a row, as a clause about it: "it has no 'caption'"."""


def parse_rows(
    rows: Iterable[tuple[str, Row | RowError]],
    parse: Callable[[Row], Iterator[Record]],
    where: object,
    report: Report | None,
) -> Iterator[Record]:
    """Yield the records that `parse` makes of each row; a row with a fault is skipped and named.

    A row comes with its place in the file `where` ("line 4"), or as the error that it met when it
    was read. Texts that are none are left out of a record that has others, and named, too.
    """
    for place, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            records = list(parse(row))
        except (RowError, NoText, DataError) as error:
            skip(f"{where}, {place}", str(error), report)
            continue
        if report is not None:
            report.good += 1
            for record in records:
                report.left_out += [Broken(f"{where}, {place}", why) for why in record.left_out]
        yield from records
    if report is not None:
        report.check()


def skip(where: str, reason: str, report: Report | None) -> None:
    """Put a broken entry into the report; without a report it is a DataError."""
    if report is None:
        raise DataError(printable(f"{where}: {reason}"))
    report.skip(Broken(printable(where), printable(reason)))


def entries(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """The rows of a list with their places, from 0."""
    return ((f"entry {number}", row) for number, row in enumerate(rows))


def indexed(
    rows: Iterable[tuple[str, Row | RowError]],
) -> Iterator[tuple[str, tuple[int, Row] | RowError]]:
    """The same rows, each with its number, from 0."""
    for index, (place, row) in enumerate(rows):
        yield place, row if isinstance(row, RowError) else (index, row)


def index_rows(
    rows: Iterable[Row],
    parse: Callable[[Row], tuple[str, Value]],
    where: object,
    report: Report | None,
) -> dict[str, Value]:
    """Map the key to the value that `parse` makes of each row; a row with a fault is skipped."""
    found: dict[str, Value] = {}
    for place, row in entries(rows):
        try:
            key, value = parse(row)
            found[key] = value
        except RowError as error:
            skip(f"{where}, {place}", str(error), report)
    return found


def field(row: Any, key: str) -> Any:
    """The value under a key. Raises RowError."""
    if not isinstance(row, dict):
        raise RowError(f"it is {kind_of(row)} where an object with {key!r} is expected")
    if key not in row:
        keys = ", ".join(map(shown, list(row)[:8]))
        raise RowError(f"it has no {key!r}, {f'but {keys}' if keys else 'nor anything else'}")
    return row[key]


def optional(row: Any, key: str, otherwise: Any = None) -> Any:
    """The value under a key; `otherwise` where it is absent or null. Raises RowError for no object."""
    if not isinstance(row, dict):
        raise RowError(f"it is {kind_of(row)} where an object is expected")
    return otherwise if row.get(key) is None else row[key]


def mapping(row: Any, key: str) -> dict[str, Any]:
    """The object under a key, which may be absent. Raises RowError for another kind of value."""
    value = optional(row, key, {})
    if not isinstance(value, dict):
        raise RowError(f"its {key!r} is {kind_of(value)}, not an object")
    return value


def label(row: Any, key: str) -> str:
    """The name of a kind under a key, "" where it is absent. Raises RowError."""
    value = optional(row, key, "")
    if not isinstance(value, str | int):
        raise RowError(f"its {key!r} is {kind_of(value)}, not a text")
    return _utf8(str(value), key)


def _utf8(text: str, key: str) -> str:
    if printable(text) != text:
        raise RowError(f"its {key!r} has characters that are not UTF-8")
    return text


def question_of(row: Any, key: str) -> Any:
    """The question under a key, still to be looked at by the record. Raises RowError for null."""
    value = field(row, key)
    if value is None:  # to a record, None says that there is no question, but captions
        raise RowError(f"its {key!r} is null")
    return value


def items(row: Any, key: str) -> Sequence[Any]:
    """The list under a key, which must not be empty. Raises RowError."""
    value = field(row, key)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError(f"its {key!r} is {kind_of(value)}, not a list")
    if not value:
        raise RowError(f"its {key!r} is empty")
    return value


def file_name(row: Any, key: str) -> str:
    """The name of a file under a key. Raises RowError for what cannot be one."""
    value = field(row, key)
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(name, str):
        raise RowError(f"its {key!r} is {kind_of(value)}, not the name of a file")
    name = name.strip()
    if not re.fullmatch(r"[^\0-\x1f\ud800-\udfff]+", name):
        raise RowError(f"its {key!r} is {shown(value)}, which names no file")
    return name


def identity(row: Any, key: str) -> str:
    """The id under a key as text, as it is written. Raises RowError."""
    value = field(row, key)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"its {key!r} is {kind_of(value)}, not an id")
    text = str(value).strip()
    if not text or text.lower() == "nan":
        raise RowError(f"its {key!r} is missing")
    return text.removesuffix(".0") if isinstance(value, float) else _utf8(text, key)


def same(identity: str) -> str:
    """The form in which ids are compared: "000123", "123" and "123.0" are one."""
    match = _NUMBER.fullmatch(identity)
    return match[1] if match else identity


def whole_number(row: Any, key: str) -> int:
    """The number under a key, which may be written as a text. Raises RowError."""
    text = same(identity(row, key))
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise RowError(f"its {key!r} is {shown(text)}, not a whole number")
    return int(text)


def number(row: Any, key: str) -> float:
    """The finite number under a key. Raises RowError."""
    value = field(row, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"its {key!r} is {shown(value)}, not a number")
    return value


def choice(row: Any, key: str, names: Sequence[str]) -> str:
    """The name whose number stands under a key. Raises RowError."""
    place = whole_number(row, key)
    if place >= len(names):
        raise RowError(f"its {key!r} is {place}, not one of 0 to {len(names) - 1}")
    return names[place]


def shown(value: object) -> str:
    """A value as it is written in a JSON file, cut short."""
    text = printable(json.dumps(value, ensure_ascii=False, default=kind_of))
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """The text with "?" for bytes that were not UTF-8, which no terminal prints."""
    return text.encode("utf-8", "replace").decode()
