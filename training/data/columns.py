"""Rows of a table (image folder metadata, `datasets`) to records, by a map of columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .records import Box, DataError, ImageRef, Record

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
    given = dict(given or {})
    listed = ", ".join(names)
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


def row_record(
    row: Mapping[str, Any], columns: Columns, image: ImageRef, fallback_id: str, source: str
) -> Record:
    """Return the record of one row. Raises ValueError when it has no text."""
    texts = tuple(text for name in columns.texts for text in _texts(row[name]))
    if not texts:
        raise ValueError(f"the column {columns.texts[0]} is empty")
    return Record(
        image=image,
        texts=texts,
        question=None if columns.question is None else str(row[columns.question]),
        boxes=_boxes(row.get("objects")),
        id=fallback_id if columns.id is None else str(row[columns.id]),
        source=source,
        kind=str(row.get("answer_type") or ""),
    )


def _texts(cell: Any) -> list[str]:
    """The texts of a cell: a string, a list of them, or rows with `answer` or `raw`."""
    if cell is None:
        return []
    if isinstance(cell, str):
        return [cell.strip()] if cell.strip() else []
    if isinstance(cell, Mapping):
        inner = [cell[key] for key in ("answer", "raw", "text") if key in cell]
        if not inner:
            raise ValueError(f"a text is a mapping with the keys {', '.join(cell)}")
        return _texts(inner[0])
    if isinstance(cell, Iterable):
        return [text for part in cell for text in _texts(part)]
    return [str(cell)]


def _boxes(objects: Mapping[str, Sequence[Any]] | None) -> tuple[Box, ...]:
    """Boxes in the form of the image folder's documentation: `bbox` (x, y, w, h) and labels."""
    if not objects:
        return ()
    labels = objects.get("categories", objects.get("category", ()))
    return tuple(
        Box(str(label), x, y, x + w, y + h)
        for label, (x, y, w, h) in zip(labels, objects["bbox"], strict=True)
    )
