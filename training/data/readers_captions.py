"""Readers of captioned image datasets; each yields one record an image, with all its captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .layout import existing, find_file, find_images, pick_split, split_file
from .records import ImageRef, Record
from .report import Report
from .rows import (
    RowError,
    entries,
    field,
    file_name,
    identity,
    index_rows,
    items,
    label,
    parse_rows,
    same,
)
from .text_files import read_json


def read_coco(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """COCO captions JSON: `images` with `file_name`, and `annotations` with `caption`.

    `path` is the file, which is then read whole whatever `split` says, or the folder of
    `captions_{split}2014.json`, `captions_{split}2017.json` or `captions_{split}.json` (or of its
    `annotations` folder). PASCAL Sentences circulates in the same form. `image_info_test2014.json`
    holds images whose captions are secret, which are read without any; elsewhere images without a
    caption are left out. The id is the image id.
    Source: Chen et al., arXiv 1504.00325; https://cocodataset.org/#format-data.
    """
    pattern = r"(?:captions|image_info)_([a-z-]+)(?:20\d\d)?\.json"
    file = split_file(path, ["annotations"], pattern, split)
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    secret = file.name.startswith("image_info_")
    # E.g. val2014, which is also the image folder; the images of test-dev2017 are among test2017's.
    subset = file.stem.removeprefix("image_info_" if secret else "captions_").replace("-dev", "")
    folder = find_images(root, images, [subset, "images"])
    content = read_json(file)
    photos = coco_photos(content, folder, file, report)
    if secret:
        for image_id, ref in photos.items():
            yield Record(ref, (), id=image_id, source="coco")
        return

    def parse(row: Any) -> Iterator[Record]:
        yield coco_caption(row, photos, "coco")

    rows = entries(items(content, "annotations"))
    captioned = list(gather(parse_rows(rows, parse, file, report)))
    if report is not None and len(captioned) < len(photos):
        report.unused["images without a caption"] += len(photos) - len(captioned)
    yield from captioned


def coco_photos(
    content: Any, folder: Path, file: Path, report: Report | None
) -> dict[str, ImageRef]:
    """Map each image id of a file in COCO's keys to its image."""

    def parse(row: Any) -> tuple[str, ImageRef]:
        return same(identity(row, "id")), ImageRef(str(folder / file_name(row, "file_name")))

    return index_rows(items(content, "images"), parse, f"{file}, images", report)


def coco_caption(row: Any, photos: dict[str, ImageRef], source: str) -> Record:
    """The record of one annotation in COCO's keys. Raises RowError."""
    image_id = same(identity(row, "image_id"))
    if image_id not in photos:
        raise RowError(f"its 'image_id' {image_id} is none of the ids in 'images'")
    return Record(photos[image_id], (field(row, "caption"),), id=image_id, source=source)


def gather(records: Iterable[Record]) -> Iterator[Record]:
    """Join the captions of each image, in the order in which the images first appear."""
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        grouped.setdefault((record.image.path, record.id), []).append(record)
    for same_image in grouped.values():
        texts = tuple(text for record in same_image for text in record.texts)
        yield replace(same_image[0], texts=texts)


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
    source = label(content, "dataset")
    rows = items(content, "images")
    named = [row.get("split") for row in rows if isinstance(row, dict)]
    chosen = pick_split(split, dict.fromkeys(n for n in named if isinstance(n, str)), file)
    wanted = {chosen, "restval"} if chosen == "train" and restval else {chosen}

    def parse(row: Any) -> Iterator[Record]:
        if field(row, "split") and label(row, "split") not in wanted:
            return
        name = file_name(row, "filename")
        if "filepath" in row:
            inner = file_name(row, "filepath")
            name = (f"{inner}/{name}", name)[existing(folder, [inner])]
        yield Record(
            image=ImageRef(str(folder / name)),
            texts=tuple(field(sentence, "raw") for sentence in items(row, "sentences")),
            id=identity(row, "cocoid" if "cocoid" in row else "imgid"),
            source=source,
        )

    yield from parse_rows(entries(rows), parse, file, report)


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
    subset = "test_images" if field(content, "dataset_type") == "test" else "train_images"
    folder = find_images(file.parent, images, [subset, "images"])
    seen: set[str] = set()

    def parse(row: Any) -> Iterator[Record]:
        image_id = file_name(row, "image_id")
        if image_id in seen:
            return
        yield Record(
            image=ImageRef(str(folder / f"{image_id}.jpg")),
            texts=tuple(items(row, "reference_strs")) if "reference_strs" in row else (),
            id=image_id,
            source="textcaps",
        )
        seen.add(image_id)

    yield from parse_rows(entries(items(content, "data")), parse, file, report)
