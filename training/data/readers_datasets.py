"""Reader of any dataset of the `datasets` library, by name or path, with a map of columns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from .columns import find_columns, row_record
from .layout import pick_split
from .records import DataError, ImageRef, Record
from .report import Report
from .rows import entries, field, file_name, parse_rows


def read_datasets(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    config: str | None = None,
    streaming: bool = False,
    report: Report | None = None,
) -> Iterator[Record]:
    """Any `datasets` dataset: a hub name, a folder that `load_dataset` reads, or `save_to_disk`'s.

    `columns` names the columns that are not recognised (see `columns.find_columns`) and `config`
    the dataset's configuration. The images of a record are bytes in memory; where the image
    column holds file names they are relative to `images`. With `streaming` the dataset is not
    downloaded first.
    Source: https://huggingface.co/docs/datasets/loading.
    """
    import datasets

    loaded = _load(Path(path), config, streaming)
    if hasattr(loaded, "keys"):  # a dictionary of splits
        table = loaded[pick_split(split, loaded.keys(), path)]
    else:
        table = loaded
        pick_split(split, [str(table.split), "all"], path)

    found = find_columns(table.column_names, columns, str(path))
    if isinstance(table.features[found.image], datasets.Image):
        # The bytes as stored: decoding is the business of the image pipeline.
        table = table.cast_column(found.image, datasets.Image(decode=False))

    def parse(row: tuple[int, Any]) -> Iterator[Record]:
        number, cells = row
        ref = _image_ref(field(cells, found.image), images, f"{path}#{number}")
        yield row_record(cells, found, ref, str(number), str(path))

    def rows() -> Iterator[tuple[int, Any]]:
        try:
            yield from enumerate(table)
        except _failures() as error:  # a streamed dataset is loaded here
            raise _cannot_load(path, error) from error

    yield from parse_rows(entries(rows()), parse, path, report)


def _load(path: Path, config: str | None, streaming: bool) -> Any:
    import datasets
    from datasets.data_files import get_data_patterns

    saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    odd = path.is_dir() and bool(re.search(r"[*?\[]|::", str(path.resolve())))
    source = _plain_link(path) if odd else str(path)
    try:
        if saved:
            return datasets.load_from_disk(source)
        files = None
        if odd:  # named through the link, for the library would look at where it leads
            patterns = get_data_patterns(source)
            files = {split: [f"{source}/{one}" for one in patterns[split]] for split in patterns}
        return datasets.load_dataset(source, config, data_files=files, streaming=streaming)
    except _failures() as error:
        raise _cannot_load(path, error, source) from error


def _plain_link(folder: Path) -> str:
    """A link to a folder whose name `datasets` would take for a glob or a chain of filesystems.

    It is the same in every run, for so is what the library caches of it.
    """
    import datasets

    target = folder.resolve()
    name = sha256(os.fsencode(target)).hexdigest()[:16]
    link = Path(datasets.config.HF_DATASETS_CACHE) / "links" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(target)
    return str(link)


def _failures() -> tuple[type[Exception], ...]:
    """What the library raises for a dataset that it cannot read."""
    import datasets
    import pyarrow

    return (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        datasets.exceptions.DatasetsError,
        pyarrow.ArrowException,
    )


def _cannot_load(path: str | Path, error: Exception, source: str = "") -> DataError:
    # "An error occurred while generating the dataset" is no reason.
    cause = error.__cause__ or error
    reason = str(cause).replace(source, str(path)) if source else str(cause)
    if isinstance(cause, LookupError | TypeError):
        reason = "its description is damaged"
    return DataError(f"The dataset {path} cannot be loaded: {reason}")


def _image_ref(cell: Any, images: str | Path | None, place: str) -> ImageRef:
    if isinstance(cell, bytes):
        return ImageRef(place, data=cell)
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            return ImageRef(cell.get("path") or place, data=cell["bytes"])
        cell = cell.get("path")
    return ImageRef(str(Path(images or ".") / file_name({"image": cell}, "image")))
