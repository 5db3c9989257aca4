"""Images of a folder, of parquet files or of WebDataset shards, under any path that fsspec reads.

What is read alone is a *unit*: an image file, a shard, or a row group of a parquet file. It is named by its path, a row
group by `path#number`.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vlm.errors import UserError

# The command line has these names in its help, which must come at once: what is heavy is imported inside the functions.
if TYPE_CHECKING:
    import pyarrow
    from fsspec import AbstractFileSystem

ROWS = 16  # of a parquet file, in memory together
LISTING = 32  # files whose footer is read at the same time


class Format(StrEnum):
    """How images are stored: one a file, as rows of parquet files, or as members of WebDataset's tar files."""

    folder = "folder"
    parquet = "parquet"
    webdataset = "webdataset"


class DatasetError(UserError):
    """A dataset that cannot be read or written as asked; the message says why."""


# The name of an image, None where it is not known, and what gives its bytes or raises ImageError or OSError.
Item = tuple[str | None, Callable[[], bytes]]


def open_filesystem(path: str) -> tuple[AbstractFileSystem, str]:
    """The filesystem that a path or URL names, and the path on it. Raises DatasetError where there is none."""
    from fsspec.core import url_to_fs

    try:
        filesystem, inside = url_to_fs(path)
    except (ValueError, ImportError) as error:  # an unknown protocol, or its package is not there
        raise DatasetError(f"{path}: {error}") from None
    return filesystem, os.path.normpath(inside) if _is_local(filesystem) else inside.rstrip("/")


def full_path(filesystem: AbstractFileSystem, inside: str) -> str:
    """A path that means the same on every machine that sees the storage: absolute, with the protocol if not local."""
    return inside if _is_local(filesystem) else filesystem.unstrip_protocol(inside)


def _is_local(filesystem: AbstractFileSystem) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(filesystem, LocalFileSystem)


def find_files(source: str, format: Format | None, out: str) -> tuple[Format, list[str]]:
    """The files of a dataset in the order of their names, and its format, which is that of its files if not given.

    `source` is a file, a folder (all below it) or a glob. Left out is what lies below `out` (a full path), what has a
    name that begins with a dot and, as parquet's readers do, tables whose name begins with "_". Raises DatasetError
    when there is nothing, or files of several formats.
    """
    filesystem, inside = open_filesystem(source)
    if filesystem.exists(inside):
        # fsspec would leave out folders that it may not read, without a word.
        names = filesystem.find(inside, **{"on_error": "raise"} if _is_local(filesystem) else {})
        below = len(inside)
    elif any(sign in inside for sign in "*?["):
        names = filesystem.glob(inside)
        below = len(inside[: min(inside.find(s) for s in "*?[" if s in inside)].rpartition("/")[0])
    else:
        raise DatasetError(f"{source}: no such file or folder")
    files: dict[Format, list[str]] = {}
    for name in names:
        path = full_path(filesystem, name)
        kind = _format(name)
        hidden = any(part.startswith(".") for part in name[below:].split("/"))
        if kind is not None and not hidden and not path.startswith(f"{out}/"):
            files.setdefault(kind, []).append(path)
    if format is None and len(files) > 1:
        kinds = " and ".join(sorted(files))
        raise DatasetError(f"{source} has files of the formats {kinds}; choose with --format")
    chosen = format or next(iter(files), None)
    if chosen is None or chosen not in files:
        what = "image, parquet file or WebDataset shard (.tar)" if format is None else f"{format}"
        raise DatasetError(f"{source}: no {what} there")
    return chosen, sorted(files[chosen])


def _format(name: str) -> Format | None:
    from vlm.images import EXTENSIONS

    file = name.rpartition("/")[2]
    extension = f".{file.rpartition('.')[2].lower()}"
    if extension in EXTENSIONS:
        return Format.folder
    if extension == ".parquet":
        return None if file.startswith("_") else Format.parquet
    return Format.webdataset if extension == ".tar" else None


def find_units(
    files: Sequence[str], format: Format, column: str | None, key: str | None
) -> Iterator[tuple[str, int | None]]:
    """The units of files, each with its number of images; None is a shard, whose number is known when it is read.

    Of a parquet file the footer is read, and raises DatasetError when it has not the columns.
    """
    if format is Format.parquet:
        with ThreadPoolExecutor(LISTING) as pool:
            read = partial(_groups, column=column, key=key)
            for path, groups in zip(files, pool.map(read, files)):
                yield from ((f"{path}#{number}", rows) for number, rows in enumerate(groups))
    else:
        yield from ((path, 1 if format is Format.folder else None) for path in files)


def _groups(path: str, column: str | None, key: str | None) -> list[int]:
    """Rows of each row group. A damaged file counts as one group, so that what reads it says what is wrong."""
    import pyarrow
    import pyarrow.parquet

    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
        except pyarrow.ArrowInvalid:
            return [1]
        if table.metadata.num_row_groups:
            columns(table.schema_arrow, column, key, path)
        return [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]


def columns(schema: pyarrow.Schema, column: str | None, key: str | None, path: str) -> list[str]:
    """The columns to read: that of the images (`column`, else "image", else the only one of bytes) and `key`, if any.

    Raises DatasetError when a column is not there or holds no images.
    """
    for name in (column, key):
        if name is not None and name not in schema.names:
            raise DatasetError(f"{path} has no column {name!r}; it has {', '.join(schema.names)}")
    if column is None:
        binary = [field.name for field in schema if _holds_bytes(field.type)]
        if "image" in schema.names:
            column = "image"
        elif len(binary) == 1:
            column = binary[0]
        else:
            raise DatasetError(
                f"{path}: name the column of the images with --column; it has {', '.join(schema.names)}"
            )
    kind = schema.field(column).type
    if not _holds_bytes(kind) and kind not in ("string", "large_string"):
        raise DatasetError(f"{path}: {column!r} holds {kind}, neither bytes of images nor paths")
    return [column] if key is None else [column, key]


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    """Bytes, or the {bytes, path} of Hugging Face's `datasets`."""
    if kind in ("binary", "large_binary"):
        return True
    return str(kind).startswith("struct<") and kind.get_field_index("bytes") >= 0


def read_unit(unit: str, format: Format, column: str | None, key: str | None) -> Iterator[Item]:
    """The images of a unit. What is damaged is an item too, whose bytes raise ImageError.

    Keys: an image's path; a sample's name in its shard; the `key` column of a row, or its number in the file. A sample
    has one image, the first of its files that is one. A string in the image column is a path, beside the table if
    relative. Raises OSError when the storage does not answer.
    """
    if format is Format.folder:
        yield unit, partial(_fetch, unit)
    elif format is Format.webdataset:
        yield from _read_shard(unit)
    else:
        yield from _read_rows(unit, column, key)


def _fetch(path: str) -> bytes:
    from fsspec.implementations.local import LocalFileSystem

    from vlm.images import ImageError

    try:
        filesystem, inside = open_filesystem(path)
        if isinstance(filesystem, LocalFileSystem) and Path(inside).is_fifo():
            raise ValueError("it is not a regular file")  # and might never end
        return filesystem.cat_file(inside)
    except ValueError as error:  # no such kind of storage, or no such path
        raise ImageError(f"{path!r} cannot be read: {error}") from None
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        reason = error.strerror or "no such file, or it may not be read"
        raise ImageError(f"{path} cannot be read: {reason}") from None


def _broken(reason: str) -> bytes:
    from vlm.images import ImageError

    raise ImageError(reason)


def _read_shard(path: str) -> Iterator[Item]:
    from vlm.images import EXTENSIONS

    filesystem, inside = open_filesystem(path)
    last = None
    with filesystem.open(inside, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    if member.isfile() and f".{extension.lower()}" in EXTENSIONS and key != last:
                        data = tar.extractfile(member).read()  # type: ignore[union-attr]
                        yield key, partial(bytes, data)
                        last = key
                check_end(tar, file)
        except tarfile.TarError as error:
            yield None, partial(_broken, f"{path} is damaged from here on: {error}")


def check_end(tar: tarfile.TarFile, file: BinaryIO) -> None:
    """Raise tarfile.ReadError where a tar file that has been read ends too early.

    tarfile takes a damaged header for the end, and so a cut between two files; the end is a block of zeros.
    """
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a file nor the end at byte {tar.offset}")


def _read_rows(unit: str, column: str | None, key: str | None) -> Iterator[Item]:
    import pyarrow
    import pyarrow.parquet

    path, _, group = unit.rpartition("#")
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            names = columns(table.schema_arrow, column, key, path)
            row = sum(table.metadata.row_group(i).num_rows for i in range(int(group)))
            for batch in table.iter_batches(ROWS, row_groups=[int(group)], columns=names):
                for values in batch.to_pylist():
                    name = str(row) if key is None else str(values[key])
                    yield name, partial(_row_bytes, values[names[0]], path)
                    row += 1
        except (pyarrow.ArrowInvalid, OSError) as error:
            # Arrow says of damaged pages that they are an OSError; the storage's errors have a number or a class.
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
                raise
            yield (
                None,
                partial(_broken, f"{path}, row group {group}, is damaged from here on: {error}"),
            )


def _row_bytes(value: Any, path: str) -> bytes:
    if isinstance(value, dict):
        value = value["bytes"] if value["bytes"] is not None else value.get("path")
    if value is None:
        return _broken("the row has no image")
    if isinstance(value, bytes):
        return value
    absolute = "://" in value or value.startswith("/")
    return _fetch(value if absolute else f"{path.rpartition('/')[0]}/{value}")
