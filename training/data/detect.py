"""Which format lies in a folder or file, by names and by the keys at the start of JSON files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vlm.images.files import LeftOut, files_below, is_image

from .layout import DEV_NAMES
from .records import DataError
from .text_files import decode_text

# Names that give a format away. A folder may hold several of these datasets.
TELLING_FILES = {
    "flickr8k": ("Flickr8k.token.txt",),
    "kaggle": ("captions.txt",),
    "flickr30k": ("results.csv", "*/results.csv", "results_*.token"),
    "daquar": ("all_qa_pairs.txt",),
    "easy_vqa": ("train/questions.json",),
    "textcaps": ("TextCaps_*.json",),
    "gqa": ("*_balanced_questions.json", "*/*_balanced_questions.json"),
    "vqa_v2": ("*OpenEnded_mscoco_*_questions.json", "annotations/*OpenEnded_*_questions.json"),
    "coco": (
        *("captions_*.json", "annotations/captions_*.json"),
        *("image_info_*.json", "annotations/image_info_*.json"),
    ),
    "cocoqa": ("img_ids.txt", "*/img_ids.txt", "cocoqa/*/img_ids.txt", "*/cocoqa/*/img_ids.txt"),
}
# The same captions in three forms: the first that is there is read.
SAME_CAPTIONS = {"flickr8k", "kaggle", "flickr30k"}

# Names that lie beside other formats too, and so tell only where nothing else does.
WEAK_FILES = {
    "webdataset": ("*.tar", "*/*.tar"),
    "imagefolder": ("metadata.*", "*/metadata.*"),
    "datasets": ("dataset_dict.json", "state.json", "*.parquet", "data/*.parquet"),
    "karpathy": ("dataset_*.json",),
}

# Keys at the start of a JSON file that give a format away, tried in this order.
TELLING_KEYS = (
    ("llava", ("conversations",)),
    ("gqa", ("imageId", "question")),
    ("vizwiz", ("image", "question", "answer_confidence")),
    ("textcaps", ("caption_str",)),
    ("karpathy", ("sentids",)),
    ("vqa_v2", ("questions", "question_id")),
    ("vizwiz_captions", ("images", "vizwiz_url")),
    ("vizwiz_captions", ("annotations", "is_precanned")),
    ("coco", ("images", "file_name")),
    ("okvqa", ("sent", "img_id")),
    ("aokvqa", ("question", "choices")),
    ("vsr", ("caption", "relation", "label")),
    ("hl", ("file_name", "rationale")),
    ("blip", ("image", "caption")),
    ("blip", ("image", "question")),
)
# Where files lie whose names tell their split alone, or little more.
_KEYED_FOLDERS = ("[Aa]nnotations/", "*/", "annotations/*/")
_KEYED_NAMES = ("train", *DEV_NAMES, "test", "aokvqa_*")


def detect_format(path: str | Path) -> str:
    """Return the name of the format that lies at `path`.

    Raises DataError if none is recognised, and if a folder holds several datasets.
    """
    path = Path(path)
    if str(path) in ("easy_vqa", "easy-vqa"):
        return "easy_vqa"
    if not os.path.exists(path):  # which is also said of what no file can be called
        raise DataError(f"There is no file or folder {path}; a hub's name needs format datasets.")
    if path.is_file():
        found = [f for f, globs in TELLING_FILES.items() if any(map(path.match, globs))]
        found = found or [f for f, globs in WEAK_FILES.items() if any(map(path.match, globs))]
        if format := found[0] if found else _by_keys(path):
            return format
        raise DataError(f"The format of {path} is not recognised; name the format.")
    places = _named(path, TELLING_FILES) | _keyed(path)
    if len(places) > 1 and not places.keys() <= SAME_CAPTIONS:
        listed = ", ".join(f"{format} ({place})" for format, place in places.items())
        raise DataError(f"{path} holds several datasets, {listed}; name the format of one.")
    places = places or _named(path, WEAK_FILES)
    if places:
        return next(iter(places))
    images = filter(is_image, files_below(path, LeftOut(), problems=[]))
    if any(Path(image).with_suffix(".txt").is_file() for image in images):
        return "kohya"
    files = [*path.glob("*.json"), *path.glob("*.jsonl")]
    told = [(file.name, format) for file in sorted(files)[:20] if (format := _by_keys(file))]
    listed = ", ".join(f"{name} ({format})" for name, format in told)
    hint = f"name the file to read: {listed}" if listed else "name the format"
    raise DataError(f"The format of {path} is not recognised; {hint}.")


def _named(folder: Path, telling: dict[str, tuple[str, ...]]) -> dict[str, Path]:
    """Map each format whose files are in the folder to the first of them."""
    found = {}
    for format, globs in telling.items():
        files = (file for pattern in globs for file in sorted(folder.glob(pattern)))
        if file := next(files, None):
            found[format] = file.relative_to(folder)
    return found


def _keyed(folder: Path) -> dict[str, Path]:
    """The same for formats whose files are told by their keys; one file of each folder is read."""
    found: dict[str, Path] = {}
    inside = (inner for pattern in _KEYED_FOLDERS for inner in sorted(folder.glob(pattern)))
    for inner in dict.fromkeys([folder, *inside]):
        for file in _by_split(inner):
            if format := _by_keys(file):
                found.setdefault(format, file.relative_to(folder))
                break
    return found


def _by_split(folder: Path) -> Iterator[Path]:
    for name in _KEYED_NAMES:
        for suffix in (".json", ".jsonl"):
            yield from sorted(folder.glob(f"{name}{suffix}"))


def _by_keys(file: Path) -> str | None:
    if file.suffix not in (".json", ".jsonl"):
        return None
    try:
        with file.open("rb") as opened:
            start = decode_text(opened.read(1 << 16))
    except OSError:  # to be said by the reader, where its format is named
        return None
    for format, keys in TELLING_KEYS:
        if all(f'"{key}"' in start for key in keys):
            return format
    return None
