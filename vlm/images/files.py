"""What is an image file, and which of them paths, folders and globs stand for."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from itertools import chain
from typing import NamedTuple

# Pillow's names of formats and the extensions of their files. Pillow decodes each itself (HEIF with pillow-heif); it
# opens many more, and some of them start other programs (EPS runs Ghostscript).
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "ICO": (".ico",),
    "TGA": (".tga",),
}
EXTENSIONS = frozenset(chain.from_iterable(FORMATS.values()))


def is_image(name: str) -> bool:
    """Whether this is the name of an image: of a file, of a member of a shard, with folders or without."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


# Reasons to leave something out, besides its extension
HIDDEN = "hidden"
LINKED = "linked again"  # a folder that is listed already, or that holds the link
SECOND = "second in their sample"
NO_IMAGE = "without an image in their sample"
NO_ROW = "without a row in the table"
REASONS = (HIDDEN, LINKED, SECOND, NO_IMAGE, NO_ROW)


class LeftOut(Counter[str]):
    """What a listing passes over: how many files of each unwanted extension, and for each of the reasons above."""

    def __bool__(self) -> bool:
        return self.total() > 0

    def add(self, name: str) -> None:
        """Count a file that is not what is wanted."""
        self[os.path.splitext(name)[1].lower() or "no extension"] += 1

    def totals(self) -> dict[str, int]:
        """Numbers by reason, one of which is that files are of other kinds."""
        kinds = sorted(set(self) - set(REASONS), key=lambda kind: (-self[kind], kind))
        named = ", ".join(kinds[:5] + ["..."] * (len(kinds) > 5))
        others = {f"of other kinds ({named})": sum(self[kind] for kind in kinds)} if kinds else {}
        return others | {reason: self[reason] for reason in REASONS if self[reason]}

    def __str__(self) -> str:
        """For example "left out 3: 2 of other kinds (.pdf, .txt), 1 hidden"."""
        reasons = ", ".join(f"{number} {reason}" for reason, number in self.totals().items())
        return f"left out {self.total()}: {reasons}"


class Listing(NamedTuple):
    """Image files, a sentence for each argument that stands for none, and what was passed over."""

    files: list[str]
    problems: list[str]
    left_out: LeftOut


def find_images(arguments: Sequence[str]) -> Listing:
    """Image files that the arguments stand for.

    A file is taken as it is. A folder stands for all images below it and a glob for those that match, known by their
    extension, in natural order ("2.jpg" before "10.jpg"). What exists is a path, whatever signs it has.
    """
    files: list[str] = []
    problems: list[str] = []
    left_out = LeftOut()
    for argument in arguments:
        if os.path.isdir(argument):
            below = files_below(argument, left_out, problems)
        elif os.path.exists(argument):
            files.append(argument)
            continue
        elif is_glob(argument):
            below = matches(argument, left_out, problems)
        else:
            problems.append(f"{argument}: no such file")
            continue
        found = images_of(below, left_out)
        if not found:
            problems.append(f"{argument}: no image there")
        files += found
    return Listing(files, problems, left_out)


def images_of(files: Iterable[str], left_out: LeftOut) -> list[str]:
    """The images among files, in natural order; the others are counted."""
    found = []
    for file in files:
        if is_image(file):
            found.append(file)
        else:
            left_out.add(file)
    return sorted(found, key=_natural)


def files_below(
    folder: str | os.PathLike[str], left_out: LeftOut, problems: list[str] | None = None
) -> Iterator[str]:
    """All files below a folder, in linked folders too, but what has a name that begins with a dot.

    A folder is read once, however many links lead to it, and a link to a folder around it leads nowhere. One that may
    not be read is a sentence in `problems` or, without them, raises OSError.
    """
    seen: set[tuple[int, int]] = set()
    folders = [os.fspath(folder)]
    links: deque[str] = deque()  # come last, so that files have the plainest of their names
    while folders or links:
        place = folders.pop() if folders else links.popleft()
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                left_out[LINKED] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as found:
                entries = list(found)
        except OSError as error:
            if problems is None:
                raise
            problems.append(f"{place}: {error.strerror}")
            continue
        for entry in entries:
            # entry.is_dir() would raise for a link to itself.
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            if entry.name.startswith("."):
                left_out[HIDDEN] += 1
            elif not is_folder:
                yield entry.path
            elif not entry.is_symlink():
                folders.append(entry.path)
            elif _leads_back(entry.path):
                left_out[LINKED] += 1
            else:
                links.append(entry.path)


def _leads_back(link: str) -> bool:
    """Whether a linked folder is one of those around the link."""
    target, around = os.path.realpath(link), os.path.realpath(os.path.dirname(link) or ".")
    return os.path.commonpath([target, around]) == target


def is_glob(path: str) -> bool:
    """Whether a path that does not exist is a pattern, in which folders that exist mean themselves."""
    return any(map(glob.has_magic, _after_folders(path)[1]))


def matches(pattern: str, left_out: LeftOut, problems: list[str] | None = None) -> Iterator[str]:
    """The files that a glob stands for, in which folders that exist mean themselves ("photos [2020]/*.jpg").

    "**" is any number of folders, as in `files_below`.
    """
    folder, signs = _after_folders(pattern)
    if "**" not in signs:
        yield from filter(os.path.isfile, glob.iglob(glob.escape(folder) + "/".join(signs)))
        return
    # glob itself would follow a link to a folder around it again and again.
    deep = signs.index("**")
    start = "".join(f"{sign}/" for sign in signs[:deep])
    for place in glob.iglob(glob.escape(folder) + start) if start else [folder]:
        for file in files_below(place or ".", left_out, problems):
            inside = os.path.relpath(file, place or ".")
            if _fits(inside.split("/"), signs[deep:]):
                yield f"{place}{inside}"


def _after_folders(path: str) -> tuple[str, list[str]]:
    """The folders that a path begins with, as far as they exist, and its other parts."""
    folder, parts = "", path.split("/")
    while len(parts) > 1 and os.path.isdir(f"{folder}{parts[0]}/"):
        folder += f"{parts.pop(0)}/"
    return folder, parts


def _fits(names: Sequence[str], signs: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern."""
    if not signs or not names:
        return not names and all(sign == "**" for sign in signs)
    if signs[0] == "**":
        return _fits(names, signs[1:]) or _fits(names[1:], signs)
    return fnmatch(names[0], signs[0]) and _fits(names[1:], signs[1:])


def _natural(path: str) -> tuple[list[str | int], str]:
    """A sort key in which numbers count as numbers; texts and numbers alternate, so they never meet."""
    parts = re.split(r"([0-9]+)", path)
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)], path
