"""Readers of what others ask about the photos of COCO; each yields one record a question."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .coco_images import coco_id, find_coco_images
from .layout import pick_split, split_file
from .readers_vqa import vqa_files, vqa_records
from .records import DataError, Record
from .report import Report
from .rows import (
    RowError,
    choice,
    field,
    file_name,
    identity,
    indexed,
    items,
    label,
    number,
    parse_rows,
    question_of,
    shown,
    whole_number,
)
from .text_files import read_json_rows, read_text
from .texts import kind_of

COCOQA_TYPES = ("object", "number", "color", "location")
OKVQA_TYPES = (
    "other",
    "vehicles and transportation",
    "brands, companies and products",
    "objects, materials and clothing",
    "sports and recreation",
    "cooking and food",
    "geography, history, language and culture",
    "people and everyday life",
    "plants and animals",
    "science and technology",
    "weather and climate",
)
# How official annotations write the category: "one", "two", ..., "other".
_NUMBERS = ("other", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_OKVQA_KINDS = dict(zip(_NUMBERS, OKVQA_TYPES, strict=True))
# What the annotators of the High-Level dataset were asked.
HL_QUESTIONS = {
    "scene": "Where is the picture taken?",
    "action": "What is the subject doing?",
    "rationale": "Why is the subject doing it?",
}


def read_cocoqa(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """COCO-QA: `questions.txt`, `answers.txt`, `img_ids.txt` and `types.txt`, one row a line.

    The files lie in a folder for each split (`train/`, `test/`), or in `path` itself, which then
    is read whole. Questions were made by machine from captions of COCO, in small letters and
    without a question mark; each has one answer of one word. The kind is object, number, color or
    location; the id is the line's number, from 0.
    Source: Ren, Kiros and Zemel, NeurIPS 2015;
    https://www.cs.toronto.edu/~mren/research/imageqa/data/cocoqa.
    """
    folder = _cocoqa_folder(Path(path), split)
    names = ("questions.txt", "answers.txt", "img_ids.txt", "types.txt")
    columns = [read_text(folder / name).rstrip("\n").split("\n") for name in names]
    if len({len(column) for column in columns}) > 1:
        counts = ", ".join(f"{n} {len(lines):,}" for n, lines in zip(names, columns, strict=True))
        raise DataError(f"The files of {folder} differ in their number of lines: {counts}.")
    photos = find_coco_images(folder / names[0], images)

    def parse(row: tuple[int, tuple[str, ...]]) -> Iterator[Record]:
        index, (question, answer, image_id, kind) = row
        cells = {"image id": image_id, "type": kind}
        photo = whole_number(cells, "image id")
        yield Record(
            image=photos.ref(photo, f"{photo:012d}.jpg"),
            texts=(answer,),
            question=question,
            id=str(index),
            source="cocoqa",
            kind=choice(cells, "type", COCOQA_TYPES),
        )

    rows = enumerate(zip(*columns, strict=True), 1)
    lines = [(f"line {number}", row) for number, row in rows]
    yield from parse_rows(indexed(lines), parse, folder, report)


def _cocoqa_folder(path: Path, split: str) -> Path:
    path = path.parent if path.is_file() else path
    for folder in (path, path / "cocoqa", path / "annotations" / "cocoqa"):
        if (folder / "questions.txt").is_file():
            return folder
        splits = sorted(file.parent.name for file in folder.glob("*/questions.txt"))
        if splits:
            return folder / pick_split(split, splits, folder)
    raise DataError(f"{path} has no questions.txt, nor a folder of a split with one.")


def read_okvqa(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """OK-VQA: the official files, or LXMERT's `{split}.json` (rows with `sent`, `label`, `img_id`).

    The official files are in the form of VQA's, with ten answers a question. LXMERT's, which VQA
    has too, give each answer its VQA score. A record then has an answer as often as people must
    have given it for that score, once for 0.3, twice for 0.6, three times for 0.9 and four times
    for 1, so that the most frequent is the best and the VQA accuracy of each is close to its score
    (of ten answers the others are not told). The kind is OK-VQA's category of knowledge and the id
    the question id.
    Source: Marino et al., CVPR 2019; https://okvqa.allenai.org; https://github.com/airsplay/lxmert.
    """
    official = "OpenEnded_mscoco_*_questions.json"  # those of VQA v2 begin with v2_
    if Path(path).match(official) or any(Path(path).glob(official)):
        questions, answers = vqa_files(path, split, prefix="")
        found = vqa_records(questions, answers, split, images, report, "okvqa", "question_type")
        for record in found:
            yield replace(record, kind=_OKVQA_KINDS.get(record.kind, record.kind))
        return
    file = split_file(path, ["okvqa", "annotations/okvqa"], r"([a-z]+)\.json", split)
    photos = find_coco_images(file, images)

    def parse(row: Any) -> Iterator[Record]:
        name = file_name(row, "img_id")  # COCO_train2014_000000570618
        yield Record(
            image=photos.ref(coco_id(name), f"{name}.jpg"),
            texts=_by_score(row["label"]) if "label" in row else (),
            question=question_of(row, "sent"),
            id=identity(row, "question_id"),
            source="okvqa",
            kind=choice(row, "class", OKVQA_TYPES) if "class" in row else "",
        )

    yield from parse_rows(read_json_rows(file), parse, file, report)


def _by_score(scores: Any) -> tuple[str, ...]:
    """Each answer as often as it takes for its VQA score; LXMERT rounds thirds to tenths."""
    if not isinstance(scores, dict) or not scores:
        raise RowError(f"its 'label' is {shown(scores)}, not the scores of answers")
    given = {answer: number(scores, answer) for answer in scores}
    times = {answer: 4 if score >= 1 else round(3 * score) for answer, score in given.items()}
    texts = tuple(answer for answer, count in times.items() for _ in range(count))
    return texts * 2 if len(texts) == 1 else texts  # several people were asked, always


def read_aokvqa(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """A-OKVQA: `aokvqa_v1p0_{split}.json`, with ten direct answers a question.

    The four choices and the rationales are not read. The questions of test have no answers. The
    id is the question id.
    Source: Schwenk et al., ECCV 2022; https://github.com/allenai/aokvqa.
    """
    folders = ["aokvqa", "annotations/aokvqa", "annotations"]
    file = split_file(path, folders, r"aokvqa_v\w+_(train|val|test)\.json", split)
    photos = find_coco_images(file, images)

    def parse(row: Any) -> Iterator[Record]:
        photo = whole_number(row, "image_id")
        yield Record(
            image=photos.ref(photo, f"{photo:012d}.jpg"),
            texts=tuple(items(row, "direct_answers")) if "direct_answers" in row else (),
            question=question_of(row, "question"),
            id=identity(row, "question_id"),
            source="aokvqa",
        )

    yield from parse_rows(read_json_rows(file), parse, file, report)


def read_vsr(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """Visual Spatial Reasoning: `{split}.jsonl`, statements that are true or false of a photo.

    A statement becomes a question whose answer is yes or no: "The dog is above the laptop." is
    asked as "Is the dog above the laptop?". The kind is the relation and the id the row's number,
    from 0.
    Source: Liu, Emerson and Collier, TACL 2023;
    https://github.com/cambridgeltl/visual-spatial-reasoning.
    """
    folders = ["vsr", "annotations/vsr"]
    file = split_file(path, folders, r"(train|val|dev|test)\.jsonl", split)
    photos = find_coco_images(file, images)

    def parse(row: tuple[int, Any]) -> Iterator[Record]:
        index, stated = row
        name = file_name(stated, "image")
        statement = field(stated, "caption")
        if not isinstance(statement, str):
            raise RowError(f"its 'caption' is {kind_of(statement)}, not a text")
        yield Record(
            image=photos.ref(coco_id(name), name),
            texts=(choice(stated, "label", ("no", "yes")),),
            question=statement_question(statement),
            id=str(index),
            source="vsr",
            kind=label(stated, "relation"),
        )

    yield from parse_rows(indexed(read_json_rows(file)), parse, file, report)


def statement_question(statement: str) -> str:
    """Return the question that asks whether a statement about two things is true.

    "The oven contains the pizza." gives "Does the oven contain the pizza?"; a statement with
    another verb is asked with "Is it true that ...?".
    """
    said = statement.strip().removesuffix(".").rstrip()
    if match := re.fullmatch(r"The (.+?) (is|are) (.+)", said):
        return f"{match[2].capitalize()} the {match[1]} {match[3]}?"
    if match := re.fullmatch(r"The (.+?) (contain|consist|ha)s (.+)", said):
        verb = "have" if match[2] == "ha" else match[2]
        return f"Does the {match[1]} {verb} {match[3]}?"
    return f"Is it true that {said[:1].lower()}{said[1:]}?"


def read_hl(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    axes: Sequence[str] = tuple(HL_QUESTIONS),
    report: Report | None = None,
) -> Iterator[Record]:
    """The High-Level dataset: `{split}.jsonl`, three answers on each of three axes a photo.

    The annotators were asked a question for each axis, which is the record's: scene ("Where is
    the picture taken?"), action and rationale. `axes` chooses among them; a rationale ("he is on
    vacation") is a guess that the photo seldom shows. `object`, five captions that COCO has too,
    is not read. The kind is the axis, and the id the file's name with `#axis` behind it.
    Source: Cafagna, van Deemter and Gatt, INLG 2023;
    https://huggingface.co/datasets/michelecafagna26/hl.
    """
    axes = [axes] if isinstance(axes, str) else list(axes)
    if unknown := [axis for axis in axes if axis not in HL_QUESTIONS]:
        raise DataError(f"There is no axis {unknown[0]!r}; the axes are {', '.join(HL_QUESTIONS)}.")
    folders = ["hl", "annotations/hl"]
    file = split_file(path, folders, r"(train|val|test)\.jsonl", split)
    photos = find_coco_images(file, images)

    def parse(row: Any) -> Iterator[Record]:
        name = file_name(row, "file_name")  # COCO_train2014_000000015195.jpg
        said = field(row, "captions")
        for axis in axes:
            yield Record(
                image=photos.ref(coco_id(name), name),
                texts=tuple(items(said, axis)),
                question=HL_QUESTIONS[axis],
                id=f"{name}#{axis}",
                source="hl",
                kind=axis,
            )

    yield from parse_rows(read_json_rows(file), parse, file, report)
