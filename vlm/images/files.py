"""Image files that paths, folders and globs stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence


def find_images(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Image files that the arguments stand for, and a sentence for each argument that stands for none.

    A file is taken as it is. A folder stands for all images below it and a glob for those that match, known by their
    extension, in natural order ("2.jpg" before "10.jpg"); files and folders whose name begins with a dot are left out.
    """
    # Pillow and NumPy, which it loads, are not needed before there is an image to read.
    from vlm.images import EXTENSIONS

    files: list[str] = []
    problems: list[str] = []
    for argument in arguments:
        if os.path.isdir(argument):
            below = list(_below(argument, problems))
        elif os.path.exists(argument):
            files.append(argument)
            continue
        elif any(sign in argument for sign in "*?["):
            below = [path for path in glob.iglob(argument, recursive=True) if os.path.isfile(path)]
        else:
            problems.append(f"{argument}: no such file")
            continue
        found = [path for path in below if os.path.splitext(path)[1].lower() in EXTENSIONS]
        if not found:
            problems.append(f"{argument}: no image there ({' '.join(sorted(EXTENSIONS))})")
        files += sorted(found, key=_natural)
    return files, problems


def _below(folder: str, problems: list[str]) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in names if not name.startswith("."))


def _natural(path: str) -> tuple[list[str | int], str]:
    """A sort key in which numbers count as numbers; texts and numbers alternate, so they never meet."""
    parts = re.split(r"([0-9]+)", path)
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)], path
