"""Readers of visual question answering datasets; each yields one record a question."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .coco_images import find_coco_images
from .layout import (
    existing,
    find_images,
    parse_rows,
    pick_split,
    read_json,
    read_lines,
    split_file,
)
from .records import Box, DataError, ImageRef, Record
from .report import Report


def read_vqa_v2(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    questions: str | Path | None = None,
    annotations: str | Path | None = None,
    report: Report | None = None,
) -> Iterator[Record]:
    """VQA v2 (also v1 and OK-VQA): the official questions file and its annotations file.

    `path` is the folder of both files (or of their folder `annotations`), or the questions file.
    `questions` and `annotations` name the files outright; questions alone are read without
    answers. A record has the ten human answers in the order of the file, or none where they are
    secret (test, test-dev). Its kind is the answer type (yes/no, number, other) and its id the
    question id.
    Source: Goyal et al., CVPR 2017; https://visualqa.org/download.html.
    """
    if questions is None:
        pattern = r"(?:v2_)?OpenEnded_mscoco_([a-z-]+)(?:20\d\d)?_questions\.json"
        file = split_file(path, ["annotations"], pattern, split)
        name = file.name.replace("OpenEnded_", "").replace("questions", "annotations")
        paired = file.with_name(name)
        if annotations is None and ("_test" not in name or paired.exists()):
            annotations = paired
    else:
        file = Path(questions)
    asked = read_json(file)
    rows: list[dict[str, Any]] = asked["questions"]
    answered = None
    if annotations is not None:
        answers_of = read_json(Path(annotations))["annotations"]
        answered = {row["question_id"]: row for row in answers_of}
    photos = find_coco_images(file, images)
    # The questions of test-dev are about the images of test.
    subset = asked["data_subtype"].replace("test-dev", "test")

    def parse(row: dict[str, Any]) -> Iterator[Record]:
        answer: dict[str, Any] = {"answers": ()}
        if answered is not None:
            answer = answered[row["question_id"]]
        yield Record(
            image=photos.ref(row["image_id"], f"COCO_{subset}_{row['image_id']:012d}.jpg"),
            texts=tuple(given["answer"] for given in answer["answers"]),
            question=row["question"],
            id=str(row["question_id"]),
            source="vqa_v2",
            kind=answer.get("answer_type", ""),
        )

    yield from parse_rows(rows, parse, file, report)


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
    names = _daquar_images(folder, split)
    wanted = set(names)
    image_folder = find_images(folder, images, ["images", "nyu_depth_images"])
    suffixes = (".jpg", ".png")
    suffix = suffixes[existing(image_folder, [f"{names[0]}{suffix}" for suffix in suffixes])]

    def parse(row: tuple[int, tuple[str, str]]) -> Iterator[Record]:
        index, (question, answer) = row
        mentions = re.findall(r"image\s*(\d+)", question)
        if not mentions:
            raise ValueError(f"the question {question[:60]!r} names no image")
        name = f"image{mentions[-1]}"
        if name in wanted:
            yield Record(
                image=ImageRef(str(image_folder / f"{name}{suffix}")),
                texts=(answer,),
                question=_daquar_question(question),
                id=str(index),
                source="daquar",
            )

    rows = enumerate(zip(lines[::2], lines[1::2], strict=True))
    yield from parse_rows(rows, parse, pairs, report)


def _daquar_images(folder: Path, split: str) -> list[str]:
    chosen = pick_split(split, ("train", "dev", "trainval", "test"), folder)
    if chosen == "test":
        return read_lines(folder / "test_images_list.txt")
    names = read_lines(folder / "train_images_list.txt")
    if chosen == "trainval":
        return names
    return [name for i, name in enumerate(names, 1) if (i % 8 == 0) == (chosen == "dev")]


def _daquar_question(question: str) -> str:
    question = re.sub(r"\s+in (the |this )?image\s*\d+\s*\?$", "?", question)
    question = re.sub(r"image\s*\d+", "image", question)
    return re.sub(r"\s+\?$", "?", question)


def read_gqa(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    scene_graphs: str | Path | None = None,
    balanced: bool = True,
    report: Report | None = None,
) -> Iterator[Record]:
    """GQA: `{split}_balanced_questions.json`, or `{split}_all_questions.json` if not `balanced`.

    `path` is the folder or the file. The kind is the structural type (verify, query, choose,
    logical, compare). With `scene_graphs` (a `*_sceneGraphs.json` file) a record has the boxes of
    the objects that its question and its answer name. Test questions have no answers.
    Source: Hudson and Manning, CVPR 2019; https://cs.stanford.edu/people/dorarad/gqa/download.html.
    """
    part = "balanced" if balanced else "all"
    file = split_file(
        path, ["questions", "questions1.2"], rf"([a-z]+)_{part}_questions\.json", split
    )
    root = file.parent.parent if file.parent.name.startswith("questions") else file.parent
    folder = find_images(root, images, ["images", "allImages/images"])
    graphs = read_json(Path(scene_graphs)) if scene_graphs is not None else {}

    def parse(row: tuple[str, dict[str, Any]]) -> Iterator[Record]:
        question_id, asked = row
        objects = graphs.get(asked["imageId"], {}).get("objects", {})
        yield Record(
            image=ImageRef(str(folder / f"{asked['imageId']}.jpg")),
            texts=(asked["answer"],) if "answer" in asked else (),
            question=asked["question"],
            boxes=_gqa_boxes(asked, objects),
            id=question_id,
            source="gqa",
            kind=asked["types"]["structural"] if "types" in asked else "",
        )

    yield from parse_rows(read_json(file).items(), parse, file, report)


def _gqa_boxes(asked: dict[str, Any], objects: dict[str, Any]) -> tuple[Box, ...]:
    named = asked.get("annotations", {})
    ids = [*named.get("question", {}).values(), *named.get("answer", {}).values()]
    found = [objects[i] for i in dict.fromkeys(ids) if i in objects]
    return tuple(Box(o["name"], o["x"], o["y"], o["x"] + o["w"], o["y"] + o["h"]) for o in found)


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
    file = split_file(path, ["Annotations", "annotations"], r"(train|val|test)\.json", split)
    root = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    folder = find_images(root, images, [file.stem, "images"])

    def parse(row: dict[str, Any]) -> Iterator[Record]:
        answerable = row.get("answerable", 1)
        if answerable_only and not answerable:
            return
        yield Record(
            image=ImageRef(str(folder / row["image"])),
            texts=tuple(given["answer"] for given in row.get("answers", ())),
            question=row["question"],
            id=row["image"],
            source="vizwiz",
            kind=row.get("answer_type", "") if answerable else "unanswerable",
        )

    yield from parse_rows(read_json(file), parse, file, report)


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
    part = _easy_vqa_folder(path) / ("test" if chosen == "test" else "train")
    folder = find_images(part, images, ["images"])
    questions = part / "questions.json"

    def parse(row: tuple[int, list[Any]]) -> Iterator[Record]:
        index, (question, answer, image_id) = row
        if chosen in ("train", "dev") and (image_id % 10 == 9) != (chosen == "dev"):
            return
        yield Record(
            image=ImageRef(str(folder / f"{image_id}.png")),
            texts=(answer,),
            question=question,
            id=str(index),
            source="easy_vqa",
        )

    yield from parse_rows(enumerate(read_json(questions)), parse, questions, report)


def _easy_vqa_folder(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    if str(path) not in ("easy_vqa", "easy-vqa"):
        raise DataError(f"There is no folder {path}.")
    package = find_spec("easy_vqa")
    if package is None or package.origin is None:
        raise DataError("The package easy-vqa is not installed; run `pip install easy-vqa`.")
    return Path(package.origin).parent / "data"
