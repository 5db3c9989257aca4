"""Readers of VizWiz: photos by people who are blind, with their questions or with captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import find_images, pick_split, split_files
from .readers_captions import coco_caption, coco_photos, gather
from .records import ImageRef, Record
from .report import Report
from .rows import (
    entries,
    field,
    file_name,
    items,
    label,
    optional,
    parse_rows,
    question_of,
)
from .text_files import read_json, read_json_rows


def read_vizwiz(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    answerable_only: bool = False,
    report: Report | None = None,
) -> Iterator[Record]:
    """VizWiz-VQA: `{split}.json`, a list with ten answers and an `answerable` flag a question.

    `path` is the file, or the folder with `Annotations/` and the image folders `train`, `val` and
    `test`. The kind is the answer type; a question that is not answerable has the kind
    "unanswerable", and is left out with `answerable_only`. The id is the image name, as the
    evaluation server expects. Test questions have no answers.
    Source: Gurari et al., CVPR 2018; https://vizwiz.org/tasks-and-datasets/vqa.
    """
    file = _find_file(path, split, "[")
    folder = _find_images(file, images)

    def parse(row: Any) -> Iterator[Record]:
        name = file_name(row, "image")
        answerable = row.get("answerable") in (None, 1, "1")
        if answerable_only and not answerable:
            if report is not None:
                report.unused["questions that are not answerable"] += 1
            return
        given = items(row, "answers") if "answers" in row else ()
        yield Record(
            image=ImageRef(str(folder / name)),
            texts=tuple(field(answer, "answer") for answer in given),
            question=question_of(row, "question"),
            id=name,
            source="vizwiz",
            kind=label(row, "answer_type") if answerable else "unanswerable",
        )

    yield from parse_rows(read_json_rows(file), parse, file, report)


def read_vizwiz_captions(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """VizWiz-Captions: `{split}.json` in COCO's keys, five captions a photo.

    `path` is the file, or the folder with `annotations/` and the image folders `train`, `val` and
    `test`, which are those of VizWiz-VQA. Captions that were rejected (`is_rejected`) and the
    ready-made one about a photo that shows nothing (`is_precanned`) are not used, as by the
    official evaluation, nor are photos that have no others. Test has no captions. The id is the
    image id.
    Source: Gurari et al., ECCV 2020; https://vizwiz.org/tasks-and-datasets/image-captioning.
    """
    file = _find_file(path, split, "{")
    folder = _find_images(file, images)
    content = read_json(file)
    photos = coco_photos(content, folder, file, report)
    if "annotations" not in content:
        for image_id, ref in photos.items():
            yield Record(ref, (), id=image_id, source="vizwiz_captions")
        return

    def parse(row: Any) -> Iterator[Record]:
        if optional(row, "is_rejected") or optional(row, "is_precanned"):
            if report is not None:
                report.unused["captions that are rejected or ready-made"] += 1
            return
        yield coco_caption(row, photos, "vizwiz_captions")

    yield from gather(parse_rows(entries(items(content, "annotations")), parse, file, report))


def _find_file(path: str | Path, split: str, opening: str) -> Path:
    """The file of a split that holds a list (questions) or an object (captions), as it opens.

    Both are called `train.json`, in `Annotations/` and `annotations/`, if not in one folder each.
    """
    if Path(path).is_file():
        return Path(path)
    found: dict[str, Path] = {}
    for inner in (".", "Annotations", "annotations"):
        if inner == "." or (Path(path) / inner).is_dir():
            files = split_files(Path(path) / inner, [], r"(train|val|test)\.json")
            for name, file in files.items():
                if _opens_with(file, opening):
                    found.setdefault(name, file)
    return found[pick_split(split, found, path)]


def _opens_with(file: Path, opening: str) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        return opened.read(64).lstrip().startswith(opening)


def _find_images(file: Path, images: str | Path | None) -> Path:
    root = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    return find_images(root, images, [file.stem, "images"])
