"""What a model said, written as evaluation servers read it, for splits whose answers are secret."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from ..data.records import DataError, Record
from .predict import Prediction


@dataclass(frozen=True)
class ServerFormat:
    """A list of objects of two keys, one for each caption or question; some servers' ids are whole numbers."""

    task: str
    id_key: str
    text_key: str
    whole_ids: bool


SERVER_FORMATS = {
    "vqa": ServerFormat("vqa", "question_id", "answer", True),  # VQA v1 and v2, OK-VQA
    "vizwiz": ServerFormat("vqa", "image", "answer", False),
    "gqa": ServerFormat("vqa", "questionId", "prediction", False),
    "coco": ServerFormat("caption", "image_id", "caption", True),  # COCO, nocaps, VizWiz captions
    "textcaps": ServerFormat("caption", "image_id", "caption", False),
}


def check_submission(name: str, task: str, records: Sequence[Record]) -> None:
    """Raise DataError for what cannot be written in a format; worth knowing before a model is run."""
    if name not in SERVER_FORMATS:
        raise DataError(
            f"there is no server format {name!r}; there are {', '.join(SERVER_FORMATS)}"
        )
    if SERVER_FORMATS[name].task != task:
        raise DataError(f"the server format {name} goes with --task {SERVER_FORMATS[name].task}")
    for record in records:
        _server_id(name, record)


def write_submission(
    file: TextIO, name: str, records: Sequence[Record], predictions: Sequence[Prediction]
) -> None:
    """Write all `records` in their order as one JSON list, in a format of `SERVER_FORMATS`.

    Servers refuse a list that lacks some: where there is no prediction, since an image could not be read, the text is
    empty.
    """
    keys = SERVER_FORMATS[name]
    said = {prediction.record: prediction.text for prediction in predictions}
    rows = [
        {keys.id_key: _server_id(name, record), keys.text_key: said.get(record, "")}
        for record in records
    ]
    json.dump(rows, file)
    file.write("\n")


def _server_id(name: str, record: Record) -> str | int:
    keys = SERVER_FORMATS[name]
    if keys.whole_ids and not record.id.isdecimal():
        raise DataError(
            f"{keys.id_key} of the server format {name} is a whole number, and {record.id!r} of {record.image} is none"
        )
    if not record.id:
        raise DataError(f"{record.image} has no id to be {keys.id_key} of the server format {name}")
    return int(record.id) if keys.whole_ids else record.id
