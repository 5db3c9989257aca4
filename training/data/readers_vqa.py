"""Readers of visual question answering datasets; each yields one record a question."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlm.errors import how_to_install

from .coco_images import find_coco_images
from .layout import find_images, pick_split, split_file
from .records import Box, DataError, ImageRef, Record
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
    mapping,
    number,
    parse_rows,
    question_of,
    same,
    shown,
    whole_number,
)
from .text_files import numbered_lines, read_json, read_lines

_DAQUAR_IMAGE = re.compile(r"image\s*(\d+)")


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
        file, paired = vqa_files(path, split)
    else:
        file, paired = Path(questions), None
    answers = paired if annotations is None else Path(annotations)
    yield from vqa_records(file, answers, split, images, report, "vqa_v2", "answer_type")


def vqa_files(path: str | Path, split: str, prefix: str = "(?:v2_)?") -> tuple[Path, Path | None]:
    """The official questions file of a split and its annotations, None where they are secret."""
    pattern = rf"{prefix}OpenEnded_mscoco_([a-z-]+)(?:20\d\d)?_questions\.json"
    file = split_file(path, ["annotations"], pattern, split)
    name = file.name.replace("OpenEnded_", "").replace("questions", "annotations")
    paired = file.with_name(name)
    return file, None if "_test" in name and not paired.exists() else paired


def vqa_records(
    file: Path,
    annotations: Path | None,
    split: str,
    images: str | Path | None,
    report: Report | None,
    source: str,
    kind_key: str,
) -> Iterator[Record]:
    """The records of an official questions file; their kind stands in annotations as `kind_key`."""
    asked = read_json(file)
    answered = None
    if annotations is not None:
        rows = items(read_json(annotations), "annotations")
        answered = index_rows(rows, _by_question, annotations, report)
    photos = find_coco_images(file, images)
    # The questions of test-dev are about the images of test.
    subset = (label(asked, "data_subtype") or split).replace("test-dev", "test")

    def parse(row: Any) -> Iterator[Record]:
        question_id, image_id = identity(row, "question_id"), whole_number(row, "image_id")
        texts: tuple[Any, ...] = ()
        kind = ""
        if answered is not None:
            answer = answered.get(same(question_id))
            if answer is None:
                raise RowError(f"no annotation has its 'question_id' {question_id}")
            texts = tuple(field(given, "answer") for given in items(answer, "answers"))
            kind = label(answer, kind_key)
        yield Record(
            image=photos.ref(image_id, f"COCO_{subset}_{image_id:012d}.jpg"),
            texts=texts,
            question=question_of(row, "question"),
            id=question_id,
            source=source,
            kind=kind,
        )

    yield from parse_rows(entries(items(asked, "questions")), parse, file, report)


def _by_question(row: Any) -> tuple[str, Any]:
    return same(identity(row, "question_id")), row


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
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    pairs = folder / "all_qa_pairs.txt"
    wanted = set(_daquar_images(folder, split))
    image_folder = find_images(folder, images, ["images", "nyu_depth_images"])
    suffix = ".png" if any(image_folder.glob("image*.png")) else ".jpg"

    def parse(row: tuple[int, str, str]) -> Iterator[Record]:
        index, question, answer = row
        name = f"image{_DAQUAR_IMAGE.findall(question)[-1]}"
        if name in wanted:
            yield Record(
                image=ImageRef(str(image_folder / f"{name}{suffix}")),
                texts=(answer,),
                question=_daquar_question(question),
                id=str(index),
                source="daquar",
            )

    yield from parse_rows(_daquar_pairs(numbered_lines(pairs)), parse, pairs, report)


def _daquar_pairs(
    lines: list[tuple[str, str]],
) -> Iterator[tuple[str, tuple[int, str, str] | RowError]]:
    """Each pair's index, question and answer. A question is a line that names an image.

    So a line that is lost, or one too many, costs no pair but its own.
    """
    index = 0
    for at, (place, line) in enumerate(lines):
        answer = lines[at + 1][1] if at + 1 < len(lines) else None
        if _DAQUAR_IMAGE.search(line):
            if answer is None or _DAQUAR_IMAGE.search(answer):
                yield place, RowError(f"the question {shown(line)} has no answer below it")
            else:
                yield place, (index, line, answer)
            index += 1
        elif at == 0 or not _DAQUAR_IMAGE.search(lines[at - 1][1]):
            yield (
                place,
                RowError(f"{shown(line)} is no question that names an image, nor an answer"),
            )


def _daquar_images(folder: Path, split: str) -> list[str]:
    chosen = pick_split(split, ("train", "dev", "trainval", "test"), folder)
    file = folder / ("test_images_list.txt" if chosen == "test" else "train_images_list.txt")
    names = read_lines(file)
    if not names:
        raise DataError(f"The file {file} is empty.")
    if chosen in ("trainval", "test"):
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
    graphs = {}
    if scene_graphs is not None:
        graphs = {same(key): graph for key, graph in _pairs(Path(scene_graphs))}

    def parse(row: tuple[str, Any]) -> Iterator[Record]:
        question_id, asked = row
        image_id = same(identity(asked, "imageId"))
        graph = graphs.get(image_id)
        yield Record(
            image=ImageRef(str(folder / file_name({"imageId": f"{image_id}.jpg"}, "imageId"))),
            texts=(asked["answer"],) if "answer" in asked else (),
            question=question_of(asked, "question"),
            boxes=() if graph is None else _gqa_boxes(asked, mapping(graph, "objects")),
            id=identity({"question id": question_id}, "question id"),
            source="gqa",
            kind=label(mapping(asked, "types"), "structural"),
        )

    yield from parse_rows(entries(_pairs(file)), parse, file, report)


def _pairs(file: Path) -> Iterable[tuple[str, Any]]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"The file {file} must hold an object, with a key for each row.")
    return content.items()


def _gqa_boxes(asked: Any, objects: Mapping[str, Any]) -> tuple[Box, ...]:
    """The boxes of the objects that the words of a question and of its answer point to."""
    named = mapping(asked, "annotations")
    parts = [mapping(named, "question"), mapping(named, "answer")]
    ids = dict.fromkeys(str(object_id) for part in parts for object_id in part.values())
    boxes = []
    for found in (objects[i] for i in ids if i in objects):
        left, top, width, height = (number(found, key) for key in "xywh")
        boxes.append(Box(str(field(found, "name")), left, top, left + width, top + height))
    return tuple(boxes)


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

    def parse(row: tuple[int, Any]) -> Iterator[Record]:
        index, cells = row
        if not isinstance(cells, list) or len(cells) != 3:
            raise RowError(f"{shown(cells)} is not [question, answer, image]")
        image_id = whole_number({"image": cells[2]}, "image")
        if chosen in ("train", "dev") and (image_id % 10 == 9) != (chosen == "dev"):
            return
        yield Record(
            image=ImageRef(str(folder / f"{image_id}.png")),
            texts=(cells[1],),
            question=question_of({"question": cells[0]}, "question"),
            id=str(index),
            source="easy_vqa",
        )

    rows = items({"questions": read_json(questions)}, "questions")
    yield from parse_rows(entries(enumerate(rows)), parse, questions, report)


def _easy_vqa_folder(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    if str(path) not in ("easy_vqa", "easy-vqa"):
        raise DataError(f"There is no folder {path}.")
    package = find_spec("easy_vqa")
    if package is None or package.origin is None:
        raise DataError(f"the package easy-vqa is not installed; {how_to_install('train')}")
    return Path(package.origin).parent / "data"
