"""Readers of captioned image datasets; each yields one record an image, with all its captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.data.layout import (
    find_file,
    find_images,
    parse_rows,
    pick_split,
    read_lines,
)
from training.data.records import DataError, ImageRef, Record
from training.data.report import Report

FLICKR8K_IMAGES = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")


def read_flickr8k(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """Flickr8k with `Flickr8k.token.txt` (`name.jpg#k<TAB>caption`) and the official split lists.

    `path` is the folder or the token file; the lists `Flickr_8k.{train,dev,test}Images.txt` lie
    beside it. The split `all` is every image of the token file, listed or not.
    Source: Hodosh, Young and Hockenmaier, JAIR 2013.
    """
    tokens = find_file(path, ["Flickr8k.token.txt", "*/Flickr8k.token.txt"], "token file")
    folder = find_images(tokens.parent, images, FLICKR8K_IMAGES)
    captions: dict[str, list[str]] = {}
    for line in read_lines(tokens):
        name, tab, caption = line.partition("\t")
        if not tab:
            raise DataError(f"{tokens} has a line without a tab: {line[:60]!r}.")
        captions.setdefault(name.rpartition("#")[0], []).append(caption.strip())
    names = _flickr8k_names(tokens.parent, split, list(captions))

    def parse(name: str) -> Iterator[Record]:
        texts = tuple(captions[name])
        yield Record(ImageRef(str(folder / name)), texts, id=name, source="flickr8k")

    return parse_rows(names, parse, tokens, report)


def _flickr8k_names(folder: Path, split: str, everything: list[str]) -> list[str]:
    lists = {p.name[len("Flickr_8k.") : -len("Images.txt")]: p for p in _split_lists(folder)}
    chosen = pick_split(split, [*lists, "all"], folder)
    return everything if chosen == "all" else read_lines(lists[chosen])


def _split_lists(folder: Path) -> list[Path]:
    return sorted(folder.glob("Flickr_8k.*Images.txt"))
