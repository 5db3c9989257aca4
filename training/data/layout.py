"""Where the files of a public dataset lie, and which split they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .records import DataError

# Names under which sources keep the same split.
DEV_NAMES = ("dev", "val", "valid", "validation")
SPLIT_NAMES = ("train", *DEV_NAMES, "test")


def find_file(path: str | Path, names: Sequence[str]) -> Path:
    """Return `path` if it is a file, else the one file that matches the first of the globs `names`.

    Raises DataError where there is none, or more than one.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"There is no file or folder {path}.")
    for name in names:
        if found := sorted(path.glob(name)):
            return _only(found, path)
    raise DataError(f"The folder {path} has no {' or '.join(names)}.")


def split_files(path: str | Path, folders: Sequence[str], pattern: str) -> dict[str, Path]:
    """Map each split to its file, from names in `path` or its `folders`.

    `pattern` is a regular expression for the whole name whose one group is the split.
    """
    files = _by_split(path, folders, pattern)
    return {split: _only(found, path) for split, found in files.items()}


def _by_split(path: str | Path, folders: Sequence[str], pattern: str) -> dict[str, list[Path]]:
    """Map each split to its files in the first of the folders that has any."""
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"There is no file or folder {path}.")
    found: dict[str, list[Path]] = {}
    for folder in (".", *folders):
        here: dict[str, list[Path]] = {}
        for file in sorted((path / folder).glob("*")):
            if match := re.fullmatch(pattern, file.name):
                here.setdefault(match[1], []).append(file)
        found = here | found
    return found


def _only(files: Sequence[Path], where: str | Path) -> Path:
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(where)) for file in files)
        raise DataError(f"{where} has several files of this kind, {names}; name the one to read.")
    return files[0]


def split_file(path: str | Path, folders: Sequence[str], pattern: str, split: str) -> Path:
    """Return `path` if it is a file, which then is the split, else the file that holds `split`."""
    if Path(path).is_file():
        return Path(path)
    files = _by_split(path, folders, pattern)
    return _only(files[pick_split(split, files, path)], path)


def find_images(root: Path, images: str | Path | None, names: Sequence[str]) -> Path:
    """Return the image folder: `images` if given, else the first of `names` under `root`."""
    if images is not None:
        if not Path(images).is_dir():
            raise DataError(f"The image folder {images} does not exist.")
        return Path(images)
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root} has no image folder ({', '.join(names)}); name it with images=.")


def existing(folder: Path, names: Sequence[str]) -> int:
    """Return the index of the first of `names` that exists in `folder`, 0 if none does."""
    return next((i for i, name in enumerate(names) if (folder / name).exists()), 0)


def pick_split(split: str, available: Iterable[str], where: str | Path) -> str:
    """Return the name under which `available` holds `split`. Raises DataError.

    dev, val, valid and validation are one split under different names.
    """
    names = list(available)
    wanted = DEV_NAMES if split in DEV_NAMES else (split,)
    for name in (split, *wanted):
        if name in names:
            return name
    raise DataError(f"{where} has no split {split!r}; it has {', '.join(names) or 'none'}.")


def held_out(names: Iterable[str], split: str, where: str | Path) -> list[str]:
    """Return the part of `names` that is `split`, for a source that defines no split itself.

    The rule: sort the names; of each ten, the ninth is dev, the tenth is test, the others are
    train; `all` is everything.
    """
    ordered = sorted(names)
    chosen = pick_split(split, ("train", "dev", "test", "all"), where)
    if chosen == "all":
        return ordered
    part = {8: "dev", 9: "test"}
    return [name for i, name in enumerate(ordered) if part.get(i % 10, "train") == chosen]
