"""Readers of captioned image datasets; each yields one record an image, with all its captions."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .layout import (
    existing,
    find_file,
    find_images,
    held_out,
    parse_rows,
    pick_split,
    read_json,
    read_lines,
    read_text,
    skip,
    split_file,
    split_files,
)
from .records import ImageRef, Record
from .report import Report

FLICKR8K_IMAGES = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")
FLICKR30K_IMAGES = ("flickr30k_images", "flickr30k-images", "images")


def read_coco(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """COCO captions JSON: `images` with `file_name`, and `annotations` with `caption`.

    `path` is the file, which is then read whole whatever `split` says, or the folder of
    `captions_{split}2014.json`, `captions_{split}2017.json` or `captions_{split}.json` (or of its
    `annotations` folder). PASCAL Sentences circulates in the same form.
    Images without a caption are left out. The id is the image id.
    Source: Chen et al., arXiv 1504.00325; https://cocodataset.org/#format-data.
    """
    file = split_file(path, ["annotations"], r"captions_([a-z]+)(?:20\d\d)?\.json", split)
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    subset = file.stem.removeprefix("captions_")  # e.g. val2014, which is also the image folder
    folder = find_images(root, images, [subset, "images"])
    content = read_json(file)
    names = {row["id"]: row["file_name"] for row in content["images"]}

    def parse(row: dict[str, Any]) -> Iterator[tuple[int, str]]:
        names[row["image_id"]]  # an annotation of an unknown image is broken
        yield row["image_id"], row["caption"].strip()

    captions = _group(parse_rows(content["annotations"], parse, file, report))
    for image_id, texts in captions.items():
        ref = ImageRef(str(folder / names[image_id]))
        yield Record(ref, tuple(texts), id=str(image_id), source="coco")


def read_karpathy(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    restval: bool = True,
    report: Report | None = None,
) -> Iterator[Record]:
    """Karpathy's `dataset_coco.json`, `dataset_flickr8k.json` and `dataset_flickr30k.json`.

    With `restval` the split `train` also has the images marked `restval`, as papers that report
    on the Karpathy split of COCO do (113,287 images). The id is the COCO id, else `imgid`.
    Source: Karpathy and Fei-Fei, CVPR 2015.
    """
    file = find_file(path, ["dataset_*.json"])
    folder = find_images(file.parent, images, ["images", "."])
    content = read_json(file)
    rows: list[dict[str, Any]] = content["images"]
    chosen = pick_split(split, dict.fromkeys(row.get("split", "") for row in rows), file)
    wanted = {chosen, "restval"} if chosen == "train" and restval else {chosen}

    def parse(row: dict[str, Any]) -> Iterator[Record]:
        if row["split"] not in wanted:
            return
        name = row["filename"]
        if "filepath" in row:
            name = (f"{row['filepath']}/{name}", name)[existing(folder, [row["filepath"]])]
        yield Record(
            image=ImageRef(str(folder / name)),
            texts=tuple(sentence["raw"].strip() for sentence in row["sentences"]),
            id=str(row.get("cocoid", row["imgid"])),
            source=content["dataset"],
        )

    yield from parse_rows(rows, parse, file, report)


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
    folder = find_images(file.parent, images, FLICKR8K_IMAGES)

    def parse(line: str) -> Iterator[tuple[str, str]]:
        name, tab, caption = line.partition("\t")
        if not (tab and "#" in name):
            raise ValueError(f"the line {line[:60]!r} is not `image#number<TAB>caption`")
        yield name.rpartition("#")[0], _unquote(caption.strip())

    captions = _group(parse_rows(read_lines(file), parse, file, report))
    names = _flickr8k_names(file.parent, split, captions)
    yield from _records(captions, names, folder, "flickr8k", report)


def read_kaggle(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """Kaggle's form of Flickr8k: `captions.txt`, a CSV with the header `image,caption`.

    The official lists `Flickr_8k.*Images.txt` give the splits where they lie beside the file;
    without them images are held out by the rule of `layout.held_out`.
    Source: https://www.kaggle.com/datasets/adityajn105/flickr8k.
    """
    file = find_file(path, ["captions.txt"])
    folder = find_images(file.parent, images, FLICKR8K_IMAGES)

    def parse(row: list[str]) -> Iterator[tuple[str, str]]:
        name, caption = row
        yield name.strip(), caption.strip().replace('""', '"')

    rows = csv.reader(io.StringIO(read_text(file)))
    next(rows, None)  # the header
    captions = _group(parse_rows(rows, parse, file, report))
    if any(file.parent.glob("Flickr_8k.*Images.txt")):
        names = _flickr8k_names(file.parent, split, captions)
    else:
        names = held_out(captions, split, file)
    yield from _records(captions, names, folder, "kaggle", report)


def read_flickr30k(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """Flickr30k's `results.csv`: `image_name| comment_number| comment`.

    One row of the published file, about 2199200615.jpg, lacks its second bar; its number and
    comment are told apart by the digit. The file has no splits: images are held out by the rule
    of `layout.held_out`; for the split of papers read Karpathy's `dataset_flickr30k.json`.
    Source: Young et al., TACL 2014; https://www.kaggle.com/datasets/hsankesara/flickr-image-dataset.
    """
    file = find_file(path, ["results.csv", "*/results.csv"])
    folder = find_images(file.parent, images, FLICKR30K_IMAGES)

    def parse(line: str) -> Iterator[tuple[str, str]]:
        match = re.fullmatch(r"([^|]+)\|\s*\d+(?:\s*\||\s)\s*(.+)", line)
        if match is None:
            raise ValueError(f"the line {line[:60]!r} is not `image| number| comment`")
        yield match[1].strip(), match[2].strip()

    captions = _group(parse_rows(read_lines(file)[1:], parse, file, report))
    yield from _records(captions, held_out(captions, split, file), folder, "flickr30k", report)


def read_textcaps(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """TextCaps: `TextCaps_0.1_{split}.json`, one row a caption, with all five in `reference_strs`.

    The images of train and val lie in `train_images`, those of test in `test_images`; test has no
    captions. The id is the image id.
    Source: Sidorov et al., ECCV 2020; https://textvqa.org/textcaps/dataset.
    """
    file = split_file(path, [], r"TextCaps_[\d.]+_([a-z]+)\.json", split)
    content = read_json(file)
    rows: list[dict[str, Any]] = content["data"]
    subset = "test_images" if content["dataset_type"] == "test" else "train_images"
    folder = find_images(file.parent, images, [subset, "images"])
    seen: set[str] = set()

    def parse(row: dict[str, Any]) -> Iterator[Record]:
        image_id = row["image_id"]
        if image_id in seen:
            return
        seen.add(image_id)
        yield Record(
            image=ImageRef(str(folder / f"{image_id}.jpg")),
            texts=tuple(row.get("reference_strs", ())),
            id=image_id,
            source="textcaps",
        )

    yield from parse_rows(rows, parse, file, report)


def _unquote(caption: str) -> str:
    """Undo CSV quoting: quotes around the caption, with each quote inside it doubled."""
    inner = caption[1:-1].replace('""', "")
    if len(caption) > 1 and caption[0] == caption[-1] == '"' and '"' not in inner:
        caption = caption[1:-1].replace('""', '"')
    return caption.replace('""', '"')


def _group(pairs: Iterable[tuple[Any, str]]) -> dict[Any, list[str]]:
    """Gather the captions of each image, in the order of the file."""
    captions: dict[Any, list[str]] = defaultdict(list)
    for image, caption in pairs:
        captions[image].append(caption)
    return dict(captions)


def _records(
    captions: dict[str, list[str]],
    names: Iterable[str],
    folder: Path,
    source: str,
    report: Report | None,
) -> Iterator[Record]:
    for name in names:
        if name not in captions:
            skip(name, "the image is in the split's list but has no caption", report)
            continue
        yield Record(ImageRef(str(folder / name)), tuple(captions[name]), id=name, source=source)


def _flickr8k_names(folder: Path, split: str, captions: Iterable[str]) -> list[str]:
    lists = split_files(folder, [], r"Flickr_8k\.([a-z]+)Images\.txt")
    chosen = pick_split(split, [*lists, "all"], folder)
    return list(captions) if chosen == "all" else read_lines(lists[chosen])
