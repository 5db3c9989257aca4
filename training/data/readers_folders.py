"""Readers of one's own folder of images: with a metadata table, or with a text file each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm.images.files import NO_ROW, LeftOut, files_below, is_image

from .columns import find_columns, row_record
from .layout import SPLIT_NAMES, held_out, pick_split
from .records import DataError, ImageRef, Record
from .report import Report
from .rows import RowError, entries, file_name, parse_rows, skip
from .text_files import Rows, read_json_rows, read_lines, read_table

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def read_imagefolder(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """Hugging Face image folder: images and `metadata.jsonl`, `.csv` or `.parquet`.

    The metadata lies in a folder for each split (`train/`, `validation/`, `test/`), or in `path`
    itself, where images are held out by the rule of `layout.held_out`. `file_name` is relative to
    the metadata file, or to `images`. `columns` names the columns that are not recognised; see
    `columns.find_columns`. An `objects` column gives the boxes.
    Source: https://huggingface.co/docs/datasets/image_dataset.
    """
    root, is_split = _split_folder(Path(path), split, _has_metadata)
    file = next((root / name for name in METADATA if (root / name).is_file()), None)
    if file is None:
        raise DataError(f"The folder {root} has no {' or '.join(METADATA)}.")
    names_of_columns, rows = _read_rows(file)
    found = find_columns(names_of_columns, columns, str(file))
    folder = Path(images) if images is not None else root
    cells = [row.get(found.image) for _, row in rows if isinstance(row, dict)]
    names = {str(name).strip() for name in cells if name}
    wanted = names if is_split else set(held_out(names, split, file))
    if images is None and report is not None:
        known = {os.path.normpath(name) for name in names}
        there = filter(is_image, _names_below(root, LeftOut(), report))
        report.pass_over(LeftOut({NO_ROW: sum(name not in known for name in there)}))

    def parse(row: Any) -> Iterator[Record]:
        name = file_name(row, found.image)
        if name in wanted:
            yield row_record(row, found, ImageRef(str(folder / name)), name, "imagefolder")

    yield from parse_rows(rows, parse, file, report)


def read_kohya(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    extension: str = ".txt",
    report: Report | None = None,
) -> Iterator[Record]:
    """A folder of images, each with its captions in a text file of the same name, one a line.

    Images are sought in all subfolders; `images` names another folder than that of the texts. A
    folder for each split (`train/`, `val/`, `test/`) gives the splits; without them images are
    held out by the rule of `layout.held_out`. kohya's repeat counts in folder names are not read:
    weights belong to the mixing. The id is the image's path inside the folder.
    Source: https://github.com/kohya-ss/sd-scripts/blob/main/docs/train_README-en.md.
    """
    root, is_split = _split_folder(Path(path), split, Path.is_dir)
    folder = Path(images) if images is not None else root
    left_out = LeftOut()
    below = _names_below(folder, left_out, report)
    names = sorted(filter(is_image, below))
    if not names:
        raise DataError(f"The folder {folder} has no images.")
    texts = {os.path.splitext(name)[0] + extension for name in names}
    for name in below:
        if name not in texts and not is_image(name):
            left_out.add(name)
    if report is not None:
        report.pass_over(left_out)

    def parse(name: str) -> Iterator[Record]:
        text_file = (root / name).with_suffix(extension)
        if not text_file.is_file():
            raise RowError(f"{name} has no {text_file.name} beside it")
        texts = read_lines(text_file)
        if not texts:
            raise RowError(f"{text_file.name} is empty")
        yield Record(ImageRef(str(folder / name)), tuple(texts), id=name, source="kohya")

    wanted = names if is_split else held_out(names, split, root)
    yield from parse_rows(((name, name) for name in wanted), parse, root, report)


def _names_below(folder: Path, left_out: LeftOut, report: Report | None) -> list[str]:
    """The files below a folder, relative to it; a folder that may not be read goes into the report."""
    problems: list[str] = []
    names = [os.path.relpath(file, folder) for file in files_below(folder, left_out, problems)]
    for problem in problems:
        skip(str(folder), problem, report)
    return names


def _split_folder(path: Path, split: str, holds: Callable[[Path], bool]) -> tuple[Path, bool]:
    """Return the folder to read, and whether it holds the split alone."""
    if not path.is_dir():
        raise DataError(f"There is no folder {path}.")
    splits = [name for name in SPLIT_NAMES if holds(path / name)]
    if splits:
        return path / pick_split(split, splits, path), True
    return path, False


def _has_metadata(folder: Path) -> bool:
    return any((folder / name).is_file() for name in METADATA)


def _read_rows(file: Path) -> tuple[list[str], Rows]:
    """The columns of a metadata file and its rows, each a dictionary of cells, with their places."""
    if file.suffix == ".csv":
        columns, table = read_table(file)
        return columns, [
            (
                place,
                cells if isinstance(cells, RowError) else dict(zip(columns, cells, strict=True)),
            )
            for place, cells in table
        ]
    rows = read_json_rows(file) if file.suffix == ".jsonl" else list(entries(_read_parquet(file)))
    keys = dict.fromkeys(key for _, row in rows if isinstance(row, dict) for key in row)
    return list(keys), rows


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException):
        raise DataError(f"The file {file} is no whole parquet file.") from None
