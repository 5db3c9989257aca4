"""One call that reads any known format: `read(path, format, split)`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from vlm.images import EXTENSIONS, ImageError

from .readers_captions import (
    read_coco,
    read_flickr8k,
    read_flickr30k,
    read_kaggle,
    read_karpathy,
    read_textcaps,
)
from .readers_datasets import read_datasets
from .readers_folders import read_imagefolder, read_kohya
from .readers_json import read_blip, read_llava
from .readers_vqa import (
    read_daquar,
    read_easy_vqa,
    read_gqa,
    read_vizwiz,
    read_vqa_v2,
)
from .records import DataError, Record
from .report import Report
from .webdataset import read_webdataset

Reader = Callable[..., Iterator[Record]]

READERS: dict[str, Reader] = {
    "coco": read_coco,
    "karpathy": read_karpathy,
    "flickr8k": read_flickr8k,
    "kaggle": read_kaggle,
    "flickr30k": read_flickr30k,
    "textcaps": read_textcaps,
    "vqa_v2": read_vqa_v2,
    "daquar": read_daquar,
    "gqa": read_gqa,
    "vizwiz": read_vizwiz,
    "easy_vqa": read_easy_vqa,
    "blip": read_blip,
    "llava": read_llava,
    "webdataset": read_webdataset,
    "imagefolder": read_imagefolder,
    "datasets": read_datasets,
    "kohya": read_kohya,
}

# Files that give a format away, tried in this order: the more telling ones come first.
TELLING_FILES = {
    "flickr8k": ("Flickr8k.token.txt",),
    "kaggle": ("captions.txt",),
    "flickr30k": ("results.csv", "*/results.csv"),
    "daquar": ("all_qa_pairs.txt",),
    "easy_vqa": ("train/questions.json",),
    "textcaps": ("TextCaps_*.json",),
    "gqa": ("*_balanced_questions.json", "*/*_balanced_questions.json"),
    "vqa_v2": ("*OpenEnded_mscoco_*_questions.json",),
    "coco": ("captions_*20*.json", "annotations/captions_*20*.json"),
    "webdataset": ("*.tar", "*/*.tar"),
    "imagefolder": ("metadata.*", "*/metadata.*"),
    "datasets": ("dataset_dict.json", "state.json", "*.parquet", "data/*.parquet"),
    "karpathy": ("dataset_*.json",),
    "vizwiz": ("Annotations/train.json", "Annotations/val.json", "annotations/val.json"),
}

# Keys at the start of a JSON file that give a format away, tried in this order.
TELLING_KEYS = (
    ("llava", ("conversations",)),
    ("gqa", ("imageId", "question")),
    ("vizwiz", ("image", "question", "answer_confidence")),
    ("textcaps", ("caption_str",)),
    ("karpathy", ("sentids",)),
    ("vqa_v2", ("questions", "question_id")),
    ("coco", ("images", "file_name")),
    ("blip", ("image", "caption")),
    ("blip", ("image", "question")),
)


def read(
    path: str | Path,
    format: str | None = None,
    split: str = "train",
    images: str | Path | None = None,
    report: Report | None = None,
    **options: Any,
) -> Iterator[Record]:
    """Yield the records of one split of a source.

    `format` is a name of READERS, or None to detect it from the files; `images` is the image
    folder, where it is not beside the texts; `options` are the reader's own arguments. Broken rows
    go into `report`, or raise without one. Raises DataError for an unknown format or option at
    once, and for a missing file or split when the first record is asked for.
    """
    name = detect_format(path) if format is None else format
    if name not in READERS:
        raise DataError(f"There is no format {name!r}; the formats are {', '.join(READERS)}.")
    reader = READERS[name]
    own = [key for key in signature(reader).parameters if key not in signature(read).parameters]
    for option in options:
        if option not in own:
            takes = f"it takes {', '.join(own)}" if own else "it takes none"
            raise DataError(f"The format {name} has no option {option!r}; {takes}.")
    return _of_shape(reader(path, split, images, report=report, **options), path, name)


def _of_shape(records: Iterator[Record], path: str | Path, format: str) -> Iterator[Record]:
    """The records of a reader, whose rows are checked one by one, but not what lies around them."""
    try:
        yield from records
    except (DataError, ImageError):
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, csv.Error) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path} has not the shape of the format {format}: {reason}.") from error


def detect_format(path: str | Path) -> str:
    """Return the name of the format that lies at `path`. Raises DataError if none is recognised."""
    path = Path(path)
    if str(path) in ("easy_vqa", "easy-vqa"):
        return "easy_vqa"
    if not path.exists():
        raise DataError(f"There is no file or folder {path}; a hub's name needs format datasets.")
    for format, patterns in TELLING_FILES.items():
        for pattern in patterns:
            if path.match(pattern) if path.is_file() else any(path.glob(pattern)):
                return format
    if path.is_file() and path.suffix in (".json", ".jsonl"):
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(1 << 16)
        for format, keys in TELLING_KEYS:
            if all(f'"{key}"' in start for key in keys):
                return format
    images = (file for file in path.rglob("[!.]*") if file.suffix.lower() in EXTENSIONS)
    if any(image.with_suffix(".txt").is_file() for image in images):
        return "kohya"
    raise DataError(f"The format of {path} is not recognised; name the format.")
