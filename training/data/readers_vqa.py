"""Readers of visual question answering datasets; each yields one record a question."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.data.layout import (
    existing_name,
    find_images,
    parse_rows,
    pick_split,
    read_json,
    read_lines,
)
from training.data.records import DataError, ImageRef, Record
from training.data.report import Report


def read_vqa_v2(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    questions: str | Path | None = None,
    annotations: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """VQA v2 (and v1): the official questions file and, where it is public, the annotations file.

    `path` is the folder of both files; `questions` and `annotations` name them outright. A record
    has the ten human answers in the order of the file, or none where the annotations are secret
    (test, test-dev). Its kind is the answer type (yes/no, number, other) and its id the question
    id, as the evaluation server expects.
    Source: Goyal et al., CVPR 2017; https://visualqa.org/download.html.
    """
    folder = Path(path)
    questions_path = Path(questions) if questions else _vqa_v2_file(folder, split, "questions")
    if questions_path is None:
        raise DataError(f"{folder} has no VQA questions of the split {split!r}.")
    annotations_path = (
        Path(annotations) if annotations else _vqa_v2_file(folder, split, "annotations")
    )
    if annotations_path is None and not split.startswith("test"):
        raise DataError(f"{folder} has no VQA annotations of the split {split!r}.")

    asked = read_json(questions_path)
    # The questions of test-dev are about the images of test.
    subset = asked["data_subtype"].replace("test-dev", "test")
    image_folder = find_images(folder, images, ["images", subset, "."])
    patterns = [f"COCO_{subset}_{{:012d}}.jpg", f"{subset}/COCO_{subset}_{{:012d}}.jpg"]
    patterns.append("{:012d}.jpg")  # the images as COCO 2017 names them
    rows: list[dict[str, Any]] = asked["questions"]
    first = [pattern.format(row["image_id"]) for row in rows[:1] for pattern in patterns]
    pattern = patterns[existing_name(image_folder, first)]
    answered = {}
    if annotations_path is not None:
        answered = {row["question_id"]: row for row in read_json(annotations_path)["annotations"]}

    def parse(row: dict[str, Any]) -> Iterator[Record]:
        answer = answered[row["question_id"]] if answered else {"answers": ()}
        yield Record(
            image=ImageRef(str(image_folder / pattern.format(row["image_id"]))),
            texts=tuple(given["answer"] for given in answer["answers"]),
            question=row["question"],
            id=str(row["question_id"]),
            source="vqa_v2",
            kind=answer.get("answer_type", ""),
        )

    return parse_rows(rows, parse, questions_path, report)


def _vqa_v2_file(folder: Path, split: str, what: str) -> Path | None:
    """Find e.g. v2_OpenEnded_mscoco_train2014_questions.json; the year may be missing."""
    pattern = re.compile(rf"_{re.escape(split)}(20\d\d)?_{what}\.json$")
    found = [path for path in sorted(folder.glob(f"*_{what}.json")) if pattern.search(path.name)]
    return found[0] if found else None


def read_daquar(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """DAQUAR: `all_qa_pairs.txt` (a question line, then its answer line) and the image lists.

    Splits: `trainval` is every question about the images of `train_images_list.txt`; it is
    divided by image, as DAQUAR has no dev list: in the order of that file every 8th image (the
    8th, the 16th, ...) is `dev` and the others are `train`. `test` is `test_images_list.txt`.
    The question loses its pointer to the file ("... in the image7 ?" becomes "...?"). An answer
    that is a comma-separated set stays one text, as written. The id is the pair's index, from 0.
    Source: Malinowski and Fritz, NeurIPS 2014.
    """
    folder = Path(path)
    pairs = folder / "all_qa_pairs.txt"
    lines = read_lines(pairs)
    if len(lines) % 2:
        raise DataError(f"{pairs} has an odd number of lines; questions and answers must pair.")
    wanted = set(_daquar_images(folder, split))
    image_folder = find_images(folder, images, ["images", "nyu_depth_images"])
    suffix = (".jpg", ".png")[
        existing_name(image_folder, [f"{name}{end}" for name in wanted for end in (".jpg", ".png")])
        % 2
    ]
    rows = [
        (index, question, answer)
        for index, (question, answer) in enumerate(zip(lines[::2], lines[1::2], strict=True))
        if _daquar_image(question) in wanted
    ]

    def parse(row: tuple[int, str, str]) -> Iterator[Record]:
        index, question, answer = row
        yield Record(
            image=ImageRef(str(image_folder / f"{_daquar_image(question)}{suffix}")),
            texts=(answer,),
            question=_daquar_question(question),
            id=str(index),
            source="daquar",
        )

    return parse_rows(rows, parse, pairs, report)


def _daquar_images(folder: Path, split: str) -> list[str]:
    chosen = pick_split(split, ("train", "dev", "trainval", "test"), folder)
    if chosen == "test":
        return read_lines(folder / "test_images_list.txt")
    names = read_lines(folder / "train_images_list.txt")
    if chosen == "trainval":
        return names
    return [name for i, name in enumerate(names, 1) if (i % 8 == 0) == (chosen == "dev")]


def _daquar_image(question: str) -> str:
    """The image a question is about: its last mention of one."""
    mentions = re.findall(r"image\s*(\d+)", question)
    return f"image{mentions[-1]}" if mentions else ""


def _daquar_question(question: str) -> str:
    question = re.sub(r"\s+in (the |this )?image\s*\d+\s*\?$", "?", question)
    question = re.sub(r"image\s*\d+", "image", question)
    return re.sub(r"\s+\?$", "?", question)


def read_easy_vqa(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """easy-VQA: one coloured shape a picture; `path` is its data folder, or the word `easy_vqa`.

    The word stands for the installed package of that name. easy-VQA has the splits train and
    test; in the order of image ids every 10th train image (ids 9, 19, ...) is `dev` and the
    others are `train`; `trainval` is both. The id is the row's index in `questions.json`.
    Source: https://github.com/vzhou842/easy-VQA.
    """
    chosen = pick_split(split, ("train", "dev", "trainval", "test"), path)
    folder = _easy_vqa_folder(path) / ("test" if chosen == "test" else "train")
    image_folder = find_images(folder, images, ["images"])
    questions = folder / "questions.json"
    rows = enumerate(read_json(questions))

    def parse(row: tuple[int, list[Any]]) -> Iterator[Record]:
        index, (question, answer, image_id) = row
        if chosen in ("train", "dev") and (image_id % 10 == 9) != (chosen == "dev"):
            return
        yield Record(
            image=ImageRef(str(image_folder / f"{image_id}.png")),
            texts=(answer,),
            question=question,
            id=str(index),
            source="easy_vqa",
        )

    return parse_rows(rows, parse, questions, report)


def _easy_vqa_folder(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    if str(path) not in ("easy_vqa", "easy-vqa"):
        raise DataError(f"There is no folder {path}.")
    package = find_spec("easy_vqa")
    if package is None or package.origin is None:
        raise DataError("The package easy-vqa is not installed; run `pip install easy-vqa`.")
    return Path(package.origin).parent / "data"
