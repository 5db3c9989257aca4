"""WebDataset tar shards: read any, and write records as shards."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from vlm.bulk.tars import read_members, samples
from vlm.images import ImageError, load_image
from vlm.images.decode import SOURCE_FORMAT
from vlm.images.files import FORMATS, LeftOut, files_below

from .layout import pick_split
from .records import Box, DataError, ImageRef, Record
from .report import Report
from .rows import (
    RowError,
    field,
    items,
    label,
    mapping,
    number,
    optional,
    parse_rows,
    question_of,
    skip,
)
from .text_files import decode_text, parse_json

_FIELDS = ("texts", "question", "weight", "boxes", "id", "source", "kind", "synthetic")


def read_webdataset(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """WebDataset shards: uncompressed tars in which the files of one sample share their name.

    A sample is an image with `.txt` (captions, one a line), or `.json` with `caption` or
    `captions` (as img2dataset writes), or with the `records` that `write_shards` writes. `path` is
    a shard, or a folder of shards named by split (`train-000000.tar`, or `train/000000.tar`); the
    split `all` is every shard. Images stay in the shard until they are read.
    Source: https://github.com/webdataset/webdataset.
    """
    if images is not None:
        raise DataError("WebDataset shards hold their images; leave images= out.")
    for shard in find_shards(path, split, report):
        yield from read_shard(shard, report)


def find_shards(path: str | Path, split: str, report: Report | None = None) -> list[Path]:
    """Return the shards of a split in the order of their names. Raises DataError."""
    path = Path(path)
    if path.is_file():
        return [path]
    shards: dict[str, list[Path]] = defaultdict(list)
    left_out = LeftOut()
    for shard in sorted(map(Path, files_below(path, left_out))):
        if shard.suffix != ".tar":
            left_out.add(shard.name)
            continue
        match = re.search(r"([a-z]+)[-_]\d+\.tar$", shard.name)
        name = match[1] if match else shard.parent.name if shard.parent != path else ""
        for part in {name, "all"} - {""}:
            shards[part].append(shard)
    if report is not None:
        report.pass_over(left_out)
    return shards[pick_split(split, shards, path)]


def read_shard(shard: Path, report: Report | None = None) -> Iterator[Record]:
    """Yield the records of one shard; a truncated shard is used up to where it breaks."""

    def parse(row: tuple[str, Any]) -> Iterator[Record]:
        image, content = row
        yield _from_json(content, ImageRef(str(shard), member=image))

    try:
        left_out = LeftOut()
        rows = (row for sample in _samples(shard, left_out) for row in _rows(sample))
        yield from parse_rows(rows, parse, shard, report)
        if report is not None:
            report.pass_over(left_out)
    except (OSError, tarfile.TarError) as error:
        skip(str(shard), f"the shard is not a whole uncompressed tar file: {error}", report)


def _rows(sample: dict[str, Any]) -> Iterator[tuple[str, tuple[str, Any] | RowError]]:
    """Each record of a sample as the name of its image and its fields, as `_to_json` writes them."""
    place = f"sample {sample['key']}"
    try:
        if "image" not in sample:
            raise RowError("it has no image")
        content = parse_json(decode_text(sample["json"])) if "json" in sample else {}
        if "records" in mapping({"json": content}, "json"):
            for number, row in enumerate(items(content, "records")):
                yield f"{place}, record {number}", (sample["image"], row)
            return
        captions = optional(content, "captions", optional(content, "caption", []))
        if "txt" in sample:
            lines = decode_text(sample["txt"]).split("\n")
            captions = [line for line in lines if line.strip()]
        texts = captions if isinstance(captions, list) else [captions]
        if not texts:
            raise RowError("it has no caption")
        row = {"texts": texts, "id": sample["key"], "source": "webdataset"}
        yield place, (sample["image"], row)
    except RowError as error:
        yield place, error


def _samples(shard: Path, left_out: LeftOut) -> Iterator[dict[str, Any]]:
    """Yield {key, image, txt, json} for each sample; raises TarError where the shard ends too early."""
    damage: list[str] = []
    with shard.open("rb") as file:
        members = read_members(file, lambda name: name.lower().endswith((".txt", ".json")), damage)
        for key, files, image in samples(members, left_out):
            sample: dict[str, Any] = {"key": key} if image is None else {"key": key, "image": image}
            kinds = {name[len(key) + 1 :].lower(): data for name, data in files.items()}
            sample |= {kind: kinds[kind] for kind in ("txt", "json") if kind in kinds}
            yield sample
    if damage:
        raise tarfile.ReadError(damage[0])


def write_shards(
    records: Iterable[Record],
    folder: str | Path,
    split: str,
    images_per_shard: int = 1000,
    report: Report | None = None,
) -> list[Path]:
    """Write records to `{split}-000000.tar` and on, and return the shards.

    Records about one image share its bytes. An image that does not decode is broken: it goes into
    the report, or raises DataError without one. A shard appears under its name only when it is
    whole, and equal records give equal bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob(f"{split}-*.tar")):
        raise DataError(
            f"{folder} already has shards of {split}; delete them or name a new folder."
        )
    by_image: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_image[record.image.key].append(record)
    files = _encode(by_image.values(), report)
    shards: list[Path] = []
    for first in files:  # each turn of this loop takes one shard's part of `files`
        shard = folder / f"{split}-{len(shards):06d}.tar"
        _write_shard(shard, chain([first], islice(files, images_per_shard - 1)))
        shards.append(shard)
    return shards


def _encode(
    groups: Iterable[list[Record]], report: Report | None
) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield (image extension, image, JSON) for the records about one image."""
    for group in groups:
        ref = group[0].image
        try:
            data = ref.read()
            picture = load_image(data)
        except (DataError, ImageError) as error:
            skip(str(ref), str(error), report)
            continue
        extension = FORMATS[picture.info[SOURCE_FORMAT]][0].removeprefix(".")
        if report is not None:
            report.good += 1
        content = {"records": [_to_json(record) for record in group]}
        yield extension, data, json.dumps(content, ensure_ascii=False).encode()
    if report is not None:
        report.check()


def _write_shard(shard: Path, files: Iterable[tuple[str, bytes, bytes]]) -> None:
    unfinished = shard.with_suffix(".tar.unfinished")
    try:
        with tarfile.open(unfinished, "w") as tar:
            for number, (extension, image, content) in enumerate(files):
                for name, data in ((extension, image), ("json", content)):
                    entry = tarfile.TarInfo(f"{shard.stem}-{number:06d}.{name}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        os.replace(unfinished, shard)
    finally:
        unfinished.unlink(missing_ok=True)


def _to_json(record: Record) -> dict[str, Any]:
    """Every field of a record but its image; fields at their default are left out."""
    defaults = {field.name: field.default for field in dataclasses.fields(Record)}
    values = {name: getattr(record, name) for name in _FIELDS}
    row = {name: value for name, value in values.items() if value != defaults[name]}
    if record.boxes:
        row["boxes"] = [dataclasses.asdict(box) for box in record.boxes]
    return row


def _from_json(row: Any, image: ImageRef) -> Record:
    texts = field(row, "texts")
    if unknown := sorted(set(row) - set(_FIELDS)):
        raise RowError(f"it has {unknown[0]!r}, which no record has")
    return Record(
        image=image,
        texts=tuple(items(row, "texts")) if texts != [] else (),  # answers that are kept secret
        question=question_of(row, "question") if "question" in row else None,
        weight=number(row, "weight") if "weight" in row else 1.0,
        boxes=tuple(_box(box) for box in items(row, "boxes")) if "boxes" in row else (),
        id=label(row, "id"),
        source=label(row, "source"),
        kind=label(row, "kind"),
        synthetic=optional(row, "synthetic", False) is True,
    )


def _box(box: Any) -> Box:
    left, top, right, bottom = (number(box, side) for side in ("left", "top", "right", "bottom"))
    return Box(label(box, "label"), left, top, right, bottom)
