"""Readers of the JSON lists that training projects share: BLIP and LAVIS, and LLaVA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import find_file, find_images, held_out, split_file
from .readers_captions import gather
from .records import ImageRef, Record
from .report import Report
from .rows import RowError, field, file_name, identity, items, optional, parse_rows, question_of
from .text_files import read_json_rows


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
    file = split_file(path, ["annotations"], r"(?:\w+_)?(train|val|test)\.jsonl?", split)
    folder = find_images(file.parent, images, ["images", "."])

    def parse(row: Any) -> Iterator[Record]:
        name = file_name(row, "image")
        asked = "question" in row
        yield Record(
            image=ImageRef(str(folder / name)),
            texts=_texts(row, "answer") if asked else _texts(row, "caption"),
            question=question_of(row, "question") if asked else None,
            id=next((identity(row, k) for k in ("question_id", "image_id") if k in row), name),
            source="blip",
        )

    captions = []
    for record in parse_rows(read_json_rows(file), parse, file, report):
        if record.question is None:
            captions.append(record)
        else:
            yield record
    yield from gather(captions)


def read_llava(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """LLaVA conversations: rows with `id`, `image` and `conversations` of human and gpt turns.

    Each human turn and its reply become one record; the mark `<image>` is taken off the question,
    and a turn that is the mark alone asks for a caption. Rows about no image are not used. `path`
    is a JSON or JSON lines file, which has no splits: images are held out by the rule of
    `layout.held_out`. The id is the row's id, with `#turn` behind it (from 0) where the row has
    several replies.
    Source: Liu et al., NeurIPS 2023;
    https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md.
    """
    file = find_file(path, ["*.json", "*.jsonl"])
    folder = find_images(file.parent, images, ["images", "."])
    rows = read_json_rows(file)
    named = [row.get("image") for _, row in rows if isinstance(row, dict)]
    names = {str(name).strip() for name in named if isinstance(name, str | int)}
    wanted = set(held_out(names, split, file))

    def parse(row: Any) -> Iterator[Record]:
        if optional(row, "image") is None:
            if report is not None:
                report.unused["rows about no image"] += 1
            return
        name = file_name(row, "image")
        if name not in wanted:
            return
        turns = items(row, "conversations")
        if len(turns) % 2 or any(
            field(turn, "from") != ("human", "gpt")[i % 2] for i, turn in enumerate(turns)
        ):
            raise RowError("the turns of human and gpt do not alternate")
        for i, (asked, reply) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
            question = str(question_of(asked, "value")).replace("<image>", "").strip()
            yield Record(
                image=ImageRef(str(folder / name)),
                texts=(field(reply, "value"),),
                question=question or None,
                id=identity(row, "id") + (f"#{i}" if len(turns) > 2 else ""),
                source="llava",
            )

    yield from parse_rows(rows, parse, file, report)


def _texts(row: Any, key: str) -> tuple[Any, ...]:
    """The text under a key, or the list of them; none where the source keeps them secret."""
    if key == "answer" and key not in row:
        return ()
    value = field(row, key)
    return tuple(items(row, key)) if isinstance(value, list) else (value,)
