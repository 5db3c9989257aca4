"""Readers of Flickr8k and Flickr30k in all their forms; each yields one record an image."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from vlm.images import EXTENSIONS

from .layout import find_file, find_images, held_out, pick_split, split_files
from .readers_captions import gather
from .records import DataError, ImageRef, Record
from .report import Report
from .rows import RowError, file_name, parse_rows, shown, skip
from .text_files import numbered_lines, read_lines, read_table

FLICKR_IMAGES = (
    *("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    *("flickr30k_images", "flickr30k-images"),
)
IMAGE_COLUMNS = ("image", "image_name", "file_name", "filename")
CAPTION_COLUMNS = ("caption", "comment", "text")


def read_flickr8k(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """Flickr8k with `Flickr8k.token.txt` (`name.jpg#k<TAB>caption`) and the official split lists.

    `path` is the folder or the token file; the lists `Flickr_8k.{train,dev,test}Images.txt` lie
    beside it. The split `all` is every image of the token file, listed or not. Copies of the file
    that went through a CSV writer have captions with commas in quotes; these are taken off.
    Source: Hodosh, Young and Hockenmaier, JAIR 2013.
    """
    file = find_file(path, ["Flickr8k.token.txt"])
    folder = find_images(file.parent, images, FLICKR_IMAGES)
    captions = _read_tokens(file, folder, "flickr8k", report)
    yield from _of_names(captions, _flickr8k_names(file.parent, split, captions), report)


def _read_tokens(file: Path, folder: Path, source: str, report: Report | None) -> dict[str, Record]:
    def parse(line: str) -> Iterator[Record]:
        name, tab, caption = line.partition("\t")
        if not (tab and "#" in name):
            raise RowError(f"{shown(line)} is not `image#number<TAB>caption`")
        yield _flickr(folder, name.rpartition("#")[0], _unquote(caption.strip()), source)

    return _by_name(parse_rows(numbered_lines(file), parse, file, report))


def read_kaggle(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """Kaggle's form of Flickr8k and Flickr30k: `captions.txt`, with a header.

    The columns are `image,caption`, a CSV, or `image_name,comment_number,comment`, in which
    comments with commas have no quotes; bars may stand for the commas. The official lists
    `Flickr_8k.*Images.txt` give the splits where they lie beside the file; without them images
    are held out by the rule of `layout.held_out`.
    Source: https://www.kaggle.com/datasets/adityajn105/flickr8k and .../flickr30k.
    """
    file = find_file(path, ["captions.txt"])
    folder = find_images(file.parent, images, FLICKR_IMAGES)
    captions = _read_comments(file, folder, "kaggle", report)
    if any(file.parent.glob("Flickr_8k.*Images.txt")):
        names = _flickr8k_names(file.parent, split, captions)
    else:
        names = held_out(captions, split, file)
    yield from _of_names(captions, names, report)


def read_flickr30k(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """Flickr30k: `results.csv` (`image_name| comment_number| comment`) or `results_*.token`.

    One row of the published CSV, about 2199200615.jpg, lacks its second bar; its number and
    comment are told apart by the digit. Commas may stand for the bars, as in Kaggle's
    `captions.txt`. The files have no splits: images are held out by the rule of
    `layout.held_out`; for the split of papers read Karpathy's `dataset_flickr30k.json`.
    Source: Young et al., TACL 2014; https://www.kaggle.com/datasets/hsankesara/flickr-image-dataset.
    """
    file = find_file(path, ["results.csv", "*/results.csv", "results_*.token", "captions.txt"])
    folder = find_images(file.parent, images, FLICKR_IMAGES)
    reader = _read_tokens if file.suffix == ".token" else _read_comments
    captions = reader(file, folder, "flickr30k", report)
    yield from _of_names(captions, held_out(captions, split, file), report)


def _read_comments(
    file: Path, folder: Path, source: str, report: Report | None
) -> dict[str, Record]:
    """A table of images and captions, with or without the caption's number between them."""
    lines = numbered_lines(file)
    if not lines:
        raise DataError(f"The file {file} is empty.")
    bar = "|" if "|" in lines[0][1] else ","
    first = [cell.strip().lower() for cell in next(csv.reader([lines[0][1]], delimiter=bar))]
    headless = Path(first[0]).suffix in EXTENSIONS
    numbered = len(first) > 2 and (first[1].isdigit() if headless else "number" in first[1])

    def parse(line: str) -> Iterator[Record]:
        match = re.fullmatch(rf"([^{bar}]+)\{bar}\s*\d+(?:\s*\{bar}|\s)\s*(.+)", line)
        if match is None:
            raise RowError(f"{shown(line)} is not `image{bar} number{bar} comment`")
        yield _flickr(folder, match[1].strip('" '), _unquote(match[2].strip()), source)

    if numbered:
        return _by_name(parse_rows(lines if headless else lines[1:], parse, file, report))

    columns, rows = read_table(file, IMAGE_COLUMNS[:1] + CAPTION_COLUMNS[:1] if headless else None)
    names = [name.lower() for name in columns]
    image = next((names.index(name) for name in IMAGE_COLUMNS if name in names), None)
    caption = next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)
    if image is None or caption is None:
        raise DataError(
            f"{file} has the columns {', '.join(columns)}; those of this format are image,caption "
            "or image_name,comment_number,comment."
        )

    def parse_cells(cells: list[str]) -> Iterator[Record]:
        yield _flickr(folder, cells[image], cells[caption].strip().replace('""', '"'), source)

    return _by_name(parse_rows(rows, parse_cells, file, report))


def _flickr(folder: Path, name: str, caption: str, source: str) -> Record:
    name = file_name({"image": name}, "image")
    return Record(ImageRef(str(folder / name)), (caption,), id=name, source=source)


def _by_name(records: Iterable[Record]) -> dict[str, Record]:
    return {record.id: record for record in gather(records)}


def _of_names(
    captions: dict[str, Record], names: Iterable[str], report: Report | None
) -> Iterator[Record]:
    for name in names:
        if name in captions:
            yield captions[name]
        else:
            skip(name, "the image is in the split's list but has no caption", report)


def _unquote(caption: str) -> str:
    """Undo CSV quoting: quotes around the caption, with each quote inside it doubled."""
    inner = caption[1:-1].replace('""', "")
    if len(caption) > 1 and caption[0] == caption[-1] == '"' and '"' not in inner:
        caption = caption[1:-1].replace('""', '"')
    return caption.replace('""', '"')


def _flickr8k_names(folder: Path, split: str, captions: Iterable[str]) -> list[str]:
    lists = split_files(folder, [], r"Flickr_8k\.([a-z]+)Images\.txt")
    chosen = pick_split(split, [*lists, "all"], folder)
    return list(captions) if chosen == "all" else read_lines(lists[chosen])
