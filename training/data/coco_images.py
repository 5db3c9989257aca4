"""COCO photos by their id: many datasets ask about them, each with the name its own way."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm.images import EXTENSIONS

from .records import DataError, ImageRef
from .rows import RowError, shown

# Folders in which the downloads of COCO keep its photos.
_SUBSET = re.compile(r"(train|val|test)20\d\d")
_ID = re.compile(r"(?:.*_)?(\d{1,18})", re.ASCII)
_LEVELS = 4  # from annotations/cocoqa/train/questions.txt up to the folder of images/


@dataclass(frozen=True)
class CocoImages:
    """The photos in a folder and in its subfolders, whatever they are called.

    `COCO_val2014_000000000042.jpg`, `000000000042.webp` and `val2017/000000000042.jpg` are all
    the photo with the id 42.
    """

    folder: Path
    names: dict[int, str]  # id to the path inside the folder

    def ref(self, image_id: int, name: str) -> ImageRef:
        """The photo with this id; `name` is how its source calls it, for a photo that is missing."""
        return ImageRef(str(self.folder / self.names.get(image_id, name)))


def find_coco_images(file: Path, images: str | Path | None) -> CocoImages:
    """Return the photos of `images` if given, else of `images/` or `train2014/` and the like.

    These are sought beside the texts' `file` and in the folders above. Raises DataError.
    """
    if images is not None:
        if not Path(images).is_dir():
            raise DataError(f"The image folder {images} does not exist.")
        return _index(Path(images))
    for root in file.absolute().parents[:_LEVELS]:
        if (root / "images").is_dir():
            return _index(root / "images")
        if any(_SUBSET.fullmatch(name) for name in os.listdir(root) if (root / name).is_dir()):
            return _index(root)
    raise DataError(
        f"{file.parent} has no image folder (images, train2014, val2017, ...) beside it or above; "
        "name it with images=."
    )


def coco_id(name: str) -> int:
    """The id in the name of a COCO photo, with or without its ending. Raises RowError."""
    match = _ID.fullmatch(os.path.splitext(os.path.basename(name))[0])
    if match is None:
        raise RowError(f"the name {shown(name)} has no id of a COCO photo")
    return int(match[1])


def _index(folder: Path) -> CocoImages:
    names: dict[int, str] = {}
    for name in _files(folder):
        stem, suffix = os.path.splitext(os.path.basename(name))
        if suffix.lower() in EXTENSIONS and (match := _ID.fullmatch(stem)):
            names.setdefault(int(match[1]), name)
    return CocoImages(folder, names)


def _files(folder: Path) -> Iterator[str]:
    """The files of a folder, then those one level deeper, as paths inside it in a fixed order."""
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir()) for entry in entries)
    yield from (name for name, is_dir in found if not is_dir)
    for name, is_dir in found:
        if is_dir:
            yield from (f"{name}/{inner}" for inner in sorted(os.listdir(folder / name)))
