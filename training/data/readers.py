"""One call that reads any known format: `read(path, format, split)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.data.readers_captions import read_flickr8k
from training.data.readers_vqa import read_daquar, read_easy_vqa, read_vqa_v2
from training.data.records import DataError, Record
from training.data.report import Report

Reader = Callable[..., Iterator[Record]]

READERS: dict[str, Reader] = {
    "flickr8k": read_flickr8k,
    "vqa_v2": read_vqa_v2,
    "daquar": read_daquar,
    "easy_vqa": read_easy_vqa,
}


def read(
    path: str | Path,
    format: str | None = None,
    split: str = "train",
    images: str | Path | None = None,
    report: Report | None = None,
    **options: Any,
) -> Iterator[Record]:
    """Yield the records of one split of a source.

    `format` is a name of READERS, or None to detect it from the files; `options` are the reader's
    own arguments. Broken rows go into `report`, or raise without one. Raises DataError for an
    unknown format, a missing file and a missing split.
    """
    name = detect_format(path) if format is None else format
    if name not in READERS:
        raise DataError(f"There is no format {name!r}; the formats are {', '.join(READERS)}.")
    return READERS[name](path, split, images, report=report, **options)


def detect_format(path: str | Path) -> str:
    """Return the name of the format that lies at `path`. Raises DataError if none is recognised."""
    path = Path(path)
    if str(path) in ("easy_vqa", "easy-vqa"):
        return "easy_vqa"
    for format, pattern in PATTERNS.items():
        if any(path.glob(pattern)) or (path.is_file() and path.match(pattern)):
            return format
    raise DataError(f"The format of {path} is not recognised; name it with format=.")


PATTERNS = {
    "flickr8k": "Flickr8k.token.txt",
    "vqa_v2": "*_questions.json",
    "daquar": "all_qa_pairs.txt",
    "easy_vqa": "train/questions.json",
}
