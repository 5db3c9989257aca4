"""One call that reads any known format: `read(path, format, split)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from .detect import detect_format
from .readers_captions import read_coco, read_karpathy, read_textcaps
from .readers_coco import read_aokvqa, read_cocoqa, read_hl, read_okvqa, read_vsr
from .readers_datasets import read_datasets
from .readers_flickr import read_flickr8k, read_flickr30k, read_kaggle
from .readers_folders import read_imagefolder, read_kohya
from .readers_json import read_blip, read_llava
from .readers_vizwiz import read_vizwiz, read_vizwiz_captions
from .readers_vqa import read_daquar, read_easy_vqa, read_gqa, read_vqa_v2
from .records import DataError, Record
from .report import Report
from .rows import RowError
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
    "vizwiz_captions": read_vizwiz_captions,
    "easy_vqa": read_easy_vqa,
    "cocoqa": read_cocoqa,
    "okvqa": read_okvqa,
    "aokvqa": read_aokvqa,
    "vsr": read_vsr,
    "hl": read_hl,
    "blip": read_blip,
    "llava": read_llava,
    "webdataset": read_webdataset,
    "imagefolder": read_imagefolder,
    "datasets": read_datasets,
    "kohya": read_kohya,
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
    """The records of a reader; a fault that lies around its rows is one of the whole source."""
    try:
        yield from records
    except RowError as error:
        raise DataError(f"{path} has not the shape of the format {format}: {error}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
