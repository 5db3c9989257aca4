"""WebDataset's tar files: their members, and which of them make a sample."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from os.path import splitext
from typing import BinaryIO, NamedTuple

from vlm.images.files import EXTENSIONS, HIDDEN, SECOND, LeftOut, is_image

TOGETHER = 32  # names that begin alike, in memory until it shows whether they are of one sample


def read_members(
    file: BinaryIO, wanted: Callable[[str], bool], damage: list[str]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a tar, no content where the name is not wanted; where it ends too early, why."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.offset_data + entry.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                if entry.isfile():
                    data = tar.extractfile(entry).read() if wanted(entry.name) else b""  # type: ignore[union-attr]
                    yield entry.name, data
            # tarfile takes a damaged header for the end, and so a cut between two files; the end is a block of zeros.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"neither a file nor the end at byte {tar.offset}")
    except tarfile.TarError as error:
        damage.append(str(error))


class Sample(NamedTuple):
    """Files of a shard that belong together; `image` is the name of the first that is one, None without."""

    key: str
    files: dict[str, bytes]
    image: str | None


def samples(members: Iterable[tuple[str, bytes]], left_out: LeftOut) -> Iterator[Sample]:
    """The samples of a WebDataset shard: files in a row whose names begin with the same key.

    A key ends at the first dot of a file's name. Where no file has just the key and one extension, the dots belong to
    the names ("walk 2.0 (edit).jpg"), and keys end at the last. Hidden files and second images are left out.
    Source: https://github.com/webdataset/webdataset.
    """
    visible = _without_hidden(members, left_out)
    for key, run in groupby(visible, lambda member: _up_to_first_dot(member[0])):
        parts = ((stem, dict(part)) for stem, part in groupby(run, lambda m: splitext(m[0])[0]))
        # The names of a whole shard may begin alike: not all are waited for.
        while some := list(islice(parts, TOGETHER)):
            if any(stem == key for stem, _ in some):
                some = [(key, {name: data for _, part in some for name, data in part.items()})]
            for stem, files in some:
                images = [name for name in files if name[len(stem) :].lower() in EXTENSIONS]
                left_out[SECOND] += sum(map(is_image, files)) - 1 if images else 0
                yield Sample(stem, files, images[0] if images else None)


def _without_hidden(
    members: Iterable[tuple[str, bytes]], left_out: LeftOut
) -> Iterator[tuple[str, bytes]]:
    for name, data in members:
        if name.rpartition("/")[2].startswith("."):
            left_out[HIDDEN] += 1
        else:
            yield name, data


def _up_to_first_dot(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"
