"""Rows of a table (image folder metadata, `datasets`) to records, by a map of columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .records import Box, DataError, ImageRef, Record
from .rows import RowError, field, identity, items, label, optional, printable, question_of, shown
from .texts import kind_of

# The names that public datasets give their columns, most specific first.
IMAGE_NAMES = ("file_name", "image", "img", "image_path")
QUESTION_NAMES = ("question",)
ANSWER_NAMES = ("answers", "answer", "label", "multiple_choice_answer")
CAPTION_NAMES = ("captions", "caption", "text", "texts", "sentences", "reference_strs")
ID_NAMES = ("question_id", "id", "image_id", "questionId")


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds what."""

    image: str
    texts: tuple[str, ...]  # one column, or one for each caption
    question: str | None
    id: str | None


def find_columns(
    available: Iterable[str], given: Mapping[str, str | Sequence[str]] | None, where: str
) -> Columns:
    """Take the columns that `given` names and find the others by their usual names.

    `given` maps image, text, question and id to column names; text may map to several columns.
    Raises DataError for an unknown key, a missing column, and when no text column is found.
    """
    names = list(available)
    given = {} if given is None else given
    if not isinstance(given, Mapping) or not all(map(_names_columns, given.values())):
        raise DataError(
            f"columns must map image, text, question or id to names of columns, not be {given!r}."
        )
    listed = printable(", ".join(names))
    if unknown := set(given) - {"image", "text", "question", "id"}:
        raise DataError(
            f"The column map has the key {min(unknown)!r}; it may have image, text, question, id."
        )
    for value in given.values():
        for name in [value] if isinstance(value, str) else value:
            if name not in names:
                raise DataError(f"{where} has no column {name!r}; it has {listed}.")

    def column(key: str, usual: Sequence[str]) -> str | None:
        return str(given[key]) if key in given else next((n for n in usual if n in names), None)

    image = column("image", IMAGE_NAMES)
    question = column("question", QUESTION_NAMES)
    if "text" in given:
        texts = [given["text"]] if isinstance(given["text"], str) else list(given["text"])
    else:
        usual = ANSWER_NAMES if question else CAPTION_NAMES
        texts = [name for name in usual if name in names][:1]
        if not (texts or question):
            texts = sorted(name for name in names if re.fullmatch(r"caption_?\d+", name))
    if not (image and texts):
        missing = "text" if image else "image"
        raise DataError(
            f"{where} has no {missing} column that is recognised among {listed}; "
            f"name it with columns={{'{missing}': ...}}."
        )
    return Columns(image, tuple(texts), question, column("id", ID_NAMES))


def _names_columns(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return isinstance(names, Sequence) and all(isinstance(name, str) for name in names)


def row_record(
    row: Mapping[str, Any], columns: Columns, image: ImageRef, fallback_id: str, source: str
) -> Record:
    """Return the record of one row. Raises RowError, and NoText when it has no text."""
    cells = [_texts(field(row, name)) for name in columns.texts]
    texts = [text for cell in cells for text in cell]
    if len(cells) > 1:  # a column for each caption, of which an image need not have all
        texts = [text for text in texts if text not in (None, "")]
    if not texts:
        raise RowError(f"the column {columns.texts[0]} is empty")
    return Record(
        image=image,
        texts=tuple(texts),
        question=None if columns.question is None else question_of(row, columns.question),
        boxes=_boxes(optional(row, "objects")),
        id=fallback_id if _is_missing(row, columns.id) else identity(row, str(columns.id)),
        source=source,
        kind=label(row, "answer_type"),
    )


def _is_missing(row: Mapping[str, Any], column: str | None) -> bool:
    value = None if column is None else row.get(column)
    return value is None or value == "" or value != value  # NaN differs from itself


def _texts(cell: Any) -> list[Any]:
    """The texts of a cell: a value, a list of them, or rows with `answer` or `raw`."""
    if isinstance(cell, Mapping):
        inner = [cell[key] for key in ("answer", "raw", "text") if key in cell]
        if not inner:
            raise RowError(f"a text is an object with {', '.join(map(str, cell)) or 'nothing'}")
        return _texts(inner[0])
    if isinstance(cell, Iterable) and not isinstance(cell, str | bytes):
        return [text for part in cell for text in _texts(part)]
    return [cell]


def _boxes(objects: Any) -> tuple[Box, ...]:
    """Boxes in the form of the image folder's documentation: `bbox` (x, y, w, h) and labels."""
    if not objects:
        return ()
    if not isinstance(objects, Mapping):
        raise RowError(f"its 'objects' are {kind_of(objects)}, not an object")
    if not objects.get("bbox"):
        return ()
    corners = items(objects, "bbox")
    labels = items(objects, "categories" if "categories" in objects else "category")
    if len(labels) != len(corners):
        raise RowError(f"its 'objects' have {len(corners)} boxes and {len(labels)} labels")
    boxes = []
    for name, box in zip(labels, corners, strict=True):
        if not _is_box(box):
            raise RowError(f"a box is {shown(box)}, not [left, top, width, height]")
        left, top, width, height = box
        boxes.append(Box(str(name), left, top, left + width, top + height))
    return tuple(boxes)


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, Sequence)
        and len(box) == 4
        and all(isinstance(side, int | float) and math.isfinite(side) for side in box)
    )
