"""Images of a folder, of parquet files or of WebDataset shards, under any path that fsspec reads.

What is read alone is a *unit*: an image file, a shard, or a row group of a parquet file. It is named by its path, a row
group by `path#number`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.errors import UserError

# The command line has these names in its help, which must come at once: what is heavy is imported inside the functions.
if TYPE_CHECKING:
    import pyarrow
    from fsspec import AbstractFileSystem

    from vlm.images.files import LeftOut

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
    """The filesystem that a path or URL names, and the path on it. Raises DatasetError where there is none.

    A path that exists is one, and so is what has "::" for no chain of filesystems ("zip://*.jpg::photos.zip").
    """
    import fsspec
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    first, chained, _ = path.partition("::")
    is_chain = chained and ("://" in path or first in fsspec.available_protocols())
    if os.path.lexists(path) or (chained and not is_chain):
        return LocalFileSystem(), os.path.abspath(path)
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


def find_files(source: str, format: Format | None, out: str) -> tuple[Format, list[str], LeftOut]:
    """The format of a dataset (that of its files, if not given), its files by name, and what is left out.

    `source` is a file, a folder (all below it) or a glob. Left out is what is hidden or of another kind and, as
    parquet's readers do, tables whose name begins with "_". What lies below `out` (a full path) is not looked at.
    Raises DatasetError when there is nothing, or files of several formats.
    """
    from vlm.images.files import LeftOut

    filesystem, inside = open_filesystem(source)
    left_out = LeftOut()
    names = _names_below(filesystem, inside, left_out)
    if names is None:
        raise DatasetError(f"{source}: no such file or folder")
    files: dict[Format | None, list[str]] = {}
    first, chain, rest = source.partition("::")
    archive = f"{chain}{rest}" if "://" in first and not _is_local(filesystem) else ""
    for name in names:
        path = full_path(filesystem, name) + archive
        if not path.startswith(f"{out}/"):
            files.setdefault(_format(name), []).append(path)
    others = files.pop(None, [])
    if format is None and len(files) > 1:
        kinds = " and ".join(sorted(kind for kind in files if kind))
        raise DatasetError(f"{source} has files of the formats {kinds}; choose with --format")
    chosen = format or next(iter(files), None)
    for kind, paths in files.items():
        others += paths if kind is not chosen else []
    for path in others:
        left_out.add(path.removesuffix(archive))
    if chosen is None or chosen not in files:
        what = "image, parquet file or WebDataset shard (.tar)" if format is None else f"{format}"
        raise DatasetError(f"{source}: no {what} there" + (f"; {left_out}" if left_out else ""))
    return chosen, sorted(files[chosen]), left_out


def _names_below(
    filesystem: AbstractFileSystem, inside: str, left_out: LeftOut
) -> list[str] | None:
    """The files of a path or glob, without the hidden; None where there is nothing of that name."""
    from vlm.images.files import HIDDEN, files_below, is_glob, matches

    if _is_local(filesystem):
        if os.path.isdir(inside):
            return list(files_below(inside, left_out))
        if os.path.exists(inside):
            return [inside]
        return list(matches(inside, left_out)) if is_glob(inside) else None
    if filesystem.exists(inside):
        names, below = filesystem.find(inside), len(inside)
    elif glob.has_magic(inside):
        names = filesystem.glob(inside)
        start = min(inside.find(sign) for sign in "*?[" if sign in inside)
        below = len(inside[:start].rpartition("/")[0])
    else:
        return None
    visible = [name for name in names if "/." not in f"/{name[below:]}"]
    left_out[HIDDEN] += len(names) - len(visible)
    return visible


def _format(name: str) -> Format | None:
    from vlm.images import is_image

    if is_image(name):
        return Format.folder
    file = name.rpartition("/")[2].lower()
    if file.endswith(".parquet") and not file.startswith("_"):
        return Format.parquet
    return Format.webdataset if file.endswith(".tar") else None


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


def read_unit(
    unit: str, format: Format, column: str | None, key: str | None, left_out: LeftOut
) -> Iterator[Item]:
    """The images of a unit. What is damaged is an item too, whose bytes raise ImageError.

    Keys: an image's path; a sample's key in its shard (see `vlm.bulk.tars.samples`); the `key` column of a row, or its
    number in the file. A string in the image column is a path, beside the table if relative. What a shard has besides
    is counted in `left_out`. Raises OSError when the storage does not answer.
    """
    if format is Format.folder:
        yield unit, partial(_fetch, unit)
    elif format is Format.webdataset:
        yield from _read_shard(unit, left_out)
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


def _read_shard(path: str, left_out: LeftOut) -> Iterator[Item]:
    from vlm.bulk.tars import read_members, samples
    from vlm.images.files import NO_IMAGE, is_image

    filesystem, inside = open_filesystem(path)
    damage: list[str] = []
    with filesystem.open(inside, "rb") as file:
        members = read_members(file, is_image, damage)
        for sample in samples(members, left_out):
            if sample.image is None:
                left_out[NO_IMAGE] += 1
            else:
                yield sample.key, partial(bytes, sample.files[sample.image])
    if damage:
        yield None, partial(_broken, f"{path} is damaged from here on: {damage[0]}")


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
