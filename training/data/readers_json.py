"""Readers of the JSON lists that training projects share: BLIP and LAVIS, and LLaVA."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import (
    find_file,
    find_images,
    held_out,
    parse_rows,
    read_json,
    read_json_lines,
    split_file,
)
from .records import DataError, ImageRef, Record
from .report import Report


def read_blip(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """BLIP and LAVIS JSON: a list of rows with `image`, and `caption` or `question` and `answer`.

    `path` is the file, which is then read whole whatever `split` says, or the folder of one file
    `*_{split}.json`. The captions of one image, which training files keep in rows of their own,
    become one record. `image` is relative to `images`, or else to the folder `images`, or to the
    file. The id is the question id, else the image id, else `image`.
    Source: Li et al., ICML 2022; https://github.com/salesforce/BLIP, https://github.com/salesforce/LAVIS.
    """
    file = split_file(path, ["annotations"], r"\w+_(train|val|test)\.json", split)
    folder = find_images(file.parent, images, ["images", "."])
    captions: dict[str, list[str]] = defaultdict(list)
    ids: dict[str, str] = {}

    def parse(row: dict[str, Any]) -> Iterator[Record]:
        name = row["image"]
        image = ImageRef(str(folder / name))
        if "question" in row:
            yield Record(
                image=image,
                texts=_as_texts(row.get("answer", ())),
                question=row["question"],
                id=str(row.get("question_id", name)),
                source="blip",
            )
        else:
            texts = _as_texts(row["caption"])
            captions[name].extend(texts)
            ids[name] = str(row.get("image_id", name))

    yield from parse_rows(_read_list(file), parse, file, report)
    for name, texts in captions.items():
        ref = ImageRef(str(folder / name))
        yield Record(ref, tuple(texts), id=ids[name], source="blip")


def read_llava(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """LLaVA conversations: rows with `id`, `image` and `conversations` of human and gpt turns.

    Each human turn and its reply become one record; the mark `<image>` is taken off the question.
    Rows about no image are left out. `path` is a JSON or JSON lines file, which has no splits:
    images are held out by the rule of `layout.held_out`. The id is the row's id, with `#turn`
    behind it (from 0) where the row has several replies.
    Source: Liu et al., NeurIPS 2023;
    https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md.
    """
    file = find_file(path, ["*.json", "*.jsonl"])
    folder = find_images(file.parent, images, ["images", "."])
    rows = _read_list(file)
    names = {row["image"] for row in rows if isinstance(row.get("image"), str)}
    wanted = set(held_out(names, split, file))

    def parse(row: dict[str, Any]) -> Iterator[Record]:
        if "image" not in row or row["image"] not in wanted:
            return
        turns = row["conversations"]
        if len(turns) % 2 or any(
            turn["from"] != ("human", "gpt")[i % 2] for i, turn in enumerate(turns)
        ):
            raise ValueError("the turns of human and gpt do not alternate")
        for i, (asked, reply) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
            yield Record(
                image=ImageRef(str(folder / row["image"])),
                texts=(reply["value"].strip(),),
                question=asked["value"].replace("<image>", "").strip(),
                id=str(row["id"]) if len(turns) == 2 else f"{row['id']}#{i}",
                source="llava",
            )

    yield from parse_rows(rows, parse, file, report)


def _as_texts(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _read_list(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON file that holds a list, or of a file with one JSON value a line."""
    rows = read_json_lines(file) if file.suffix == ".jsonl" else read_json(file)
    if not isinstance(rows, list):
        raise DataError(f"The file {file} must hold a list of rows.")
    return rows
