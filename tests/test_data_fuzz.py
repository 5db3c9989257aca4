"""Any reader given damaged files: records, or a sentence about the data, and never another error."""

from __future__ import annotations

import copy
import gzip
import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.data.readers import read
from training.data.records import DataError, Record
from training.data.report import Report

FIXTURES = Path(__file__).parent / "fixtures"
TEXTS = (".txt", ".json", ".jsonl", ".csv")
# Fixture folders that are no format's name, or that need a file named.
PLACES = {
    "imagefolder_csv": ("imagefolder", "imagefolder_csv"),
    "blip": ("blip", "blip/coco_karpathy_train.json"),
    "blip_vqa": ("blip", "blip/vqa_train.json"),
    "llava": ("llava", "llava/train.json"),
    "coco": ("coco", "coco/annotations/captions_val2014.json"),
}
NAMES = sorted({file.name for file in FIXTURES.iterdir()} | PLACES.keys())
SPLITS = {
    "flickr30k": "all",
    "kaggle": "all",
    "llava": "all",
    "imagefolder_csv": "all",
    "kohya": "all",
}
# Words of Python, which say nothing of the data.
PYTHON = re.compile(
    r"NoneType|expected str|out of range|object is not|no attribute|unhashable|Error\b|codec|"
    r"subscript|(keyword|positional) argument|invalid literal|<class|<.* at 0x|to unpack|"
    r"embedded null|surrogate|\bdict\b"
)
ODD: list[Any] = [
    *(
        None,
        math.nan,
        math.inf,
        True,
        0,
        -1,
        2.5,
        10**30,
        "",
        " ",
        "nan",
        "a",
        "\0",
        "\ud83d",
        "../x",
    ),
    *([], {}, [None], [[]], {"a": None}, ["", ""], "000123", 123.0),
]


def source(name: str) -> tuple[str, Path]:
    format, place = PLACES.get(name, (name, name))
    return format, FIXTURES / place


def text_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in TEXTS)


def check(format: str, path: Path, split: str, report: Report) -> list[Record]:
    """Read, and hold whatever is said against the rule; return the records."""
    said, records = [], []
    try:
        records = list(read(path, format, split, report=report))
    except DataError as error:
        said.append(str(error))
    said += [broken.reason for broken in (*report.broken, *report.left_out)]
    for reason in said:
        assert not PYTHON.search(reason.replace(str(path), "")), reason
        assert reason.encode()  # it can be printed
    for record in records:
        assert record.question is None or record.question.strip()
        assert all(isinstance(text, str) and text.strip() for text in record.texts)
        for text in (record.question or "", record.id, record.kind, *record.texts):
            text.encode()  # no half characters
        with suppress(DataError):
            record.image.read()
    return records


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(FIXTURES, folder / "fixtures")
    return folder / "fixtures"


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places_in(part, (*path, key))


def with_change(content: Any, path: tuple[Any, ...], value: Any, drop: bool) -> Any:
    if not path:
        return value
    content = copy.deepcopy(content)
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    if drop:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return content


JSON_FILES = [
    (name, file.relative_to(FIXTURES))
    for name in NAMES
    for file in text_files(source(name)[1] if source(name)[1].is_dir() else source(name)[1].parent)
    if file.suffix in (".json", ".jsonl") and (source(name)[1].is_dir() or file == source(name)[1])
]


@pytest.mark.parametrize(("name", "file"), JSON_FILES, ids=lambda value: str(value))
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_of_a_json_file_may_be_any_other(
    copies: Path, name: str, file: Path, data: st.DataObject
) -> None:
    text = (FIXTURES / file).read_text()
    lines = file.suffix == ".jsonl"
    content = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    path = data.draw(st.sampled_from(list(places_in(content))))
    changed = with_change(content, path, data.draw(st.sampled_from(ODD)), data.draw(st.booleans()))
    if lines and isinstance(changed, list):
        written = "\n".join(json.dumps(row) for row in changed)
    else:
        written = json.dumps(changed)
    (copies / file).write_text(written)
    format, place = source(name)
    place = copies / place.relative_to(FIXTURES)
    splits = [SPLITS[name]] if name in SPLITS else ["train", "val", "test"]
    try:
        for split in splits:
            check(format, place, split, Report(limit=1))
    finally:
        (copies / file).write_text(text)


def damaged(raw: bytes, data: st.DataObject) -> bytes:
    kind = data.draw(
        st.sampled_from(
            [
                "cut",
                "byte",
                "bom",
                "crlf",
                "utf-16",
                "gzip",
                "empty",
                "line",
                "twice",
                "comma",
                "quote",
            ]
        )
    )
    at = data.draw(st.integers(0, len(raw)))
    lines = raw.split(b"\n")
    row = data.draw(st.integers(0, len(lines) - 1))
    match kind:
        case "cut":
            return raw[:at]
        case "byte":
            return (
                raw[:at]
                + data.draw(st.sampled_from([b"\0", b"\xe9", b"\xff\xfe", b"\x1c", b"\r"]))
                + raw[at:]
            )
        case "bom":
            return b"\xef\xbb\xbf" + raw
        case "crlf":
            return raw.replace(b"\n", b"\r\n")
        case "utf-16":
            return raw.decode().encode(data.draw(st.sampled_from(["utf-16", "utf-16-le"])))
        case "gzip":
            return gzip.compress(raw)
        case "empty":
            return b""
        case "line":
            return b"\n".join(lines[:row] + lines[row + 1 :])
        case "twice":
            return b"\n".join(lines[: row + 1] + lines[row:])
        case "comma":
            return (
                raw[:at] + data.draw(st.sampled_from([b",", b"\t", b"|", b"#", b"\n"])) + raw[at:]
            )
        case _:
            return raw[:at] + b'"' + raw[at:]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_file_may_be_damaged_anywhere(copies: Path, name: str, data: st.DataObject) -> None:
    format, place = source(name)
    files = text_files(place) if place.is_dir() else [place]
    file = copies / data.draw(st.sampled_from(files)).relative_to(FIXTURES)
    raw = file.read_bytes()
    file.write_bytes(damaged(raw, data))
    place = copies / place.relative_to(FIXTURES)
    try:
        for split in [SPLITS[name]] if name in SPLITS else ["train", "val", "test"]:
            check(format, place, split, Report(limit=1))
        with suppress(DataError):
            read(place)
    finally:
        file.write_bytes(raw)


ROWS = {  # the list of rows in each format's file
    "aokvqa/aokvqa_v1p0_train.json": (),
    "blip/coco_karpathy_train.json": (),
    "blip/vqa_train.json": (),
    "coco/annotations/captions_val2014.json": ("annotations",),
    "easy_vqa/train/questions.json": (),
    "hl/train.jsonl": (),
    "imagefolder/train/metadata.jsonl": (),
    "karpathy/dataset_coco.json": ("images",),
    "llava/train.json": (),
    "okvqa/train.json": (),
    "textcaps/TextCaps_0.1_train.json": ("data",),
    "vizwiz/Annotations/train.json": (),
    "vizwiz_captions/annotations/train.json": ("annotations",),
    "vqa_v2/v2_OpenEnded_mscoco_train2014_questions.json": ("questions",),
    "vqa_v2/v2_mscoco_train2014_annotations.json": ("annotations",),
    "vsr/train.jsonl": (),
}


@pytest.mark.parametrize("bad", [None, 3, "row", [], {}, {"image": [], "image_id": {}}], ids=repr)
@pytest.mark.parametrize("file", ROWS)
def test_a_row_that_is_none_costs_no_other(copies: Path, file: str, bad: Any) -> None:
    format = file.split("/")[0]
    place = copies / (file if format in ("blip", "llava") else format)
    split = {"coco": "val", "llava": "all"}.get(format, "train")
    sound = Report(limit=0)
    before = list(read(place, format, split, report=sound))
    text = (copies / file).read_text()
    content = (
        [json.loads(line) for line in text.splitlines()] if file.endswith("l") else json.loads(text)
    )
    rows = content
    for key in ROWS[file]:
        rows = rows[key]
    rows.append(bad)
    written = "\n".join(map(json.dumps, content)) if file.endswith("l") else json.dumps(content)
    (copies / file).write_text(written)
    report = Report(limit=0.5)
    try:
        assert check(format, place, split, report) == before
    finally:
        (copies / file).write_text(text)
    assert len(report.broken) + sum(report.unused.values()) == 1 + sum(sound.unused.values())
    assert all(re.search(r"(entry|line) \d+$", broken.where) for broken in report.broken)


LINES = {
    "daquar/all_qa_pairs.txt": "what is that ?",
    "flickr8k/Flickr8k.token.txt": "1000_a.jpg A square",
    "flickr30k/results.csv": "500.jpg",
    "kaggle/captions.txt": "100_k.jpg,a square, a red one",
    "imagefolder_csv/metadata.csv": '1.png,"what',
    "hl/train.jsonl": '{"file_name": ',
    "vsr/train.jsonl": '{"image": "000000000009.jpg", "caption": "a\xe9"}',
}


@pytest.mark.parametrize("at", [1, 2, -1])
@pytest.mark.parametrize("file", LINES)
def test_a_bad_line_costs_no_other_and_is_named(copies: Path, file: str, at: int) -> None:
    format, place = source(file.split("/")[0])
    place = copies / place.relative_to(FIXTURES)
    split = "trainval" if format == "daquar" else SPLITS.get(file.split("/")[0], "train")
    before = {(r.image.path, r.texts, r.question) for r in read(place, format, split)}
    raw = (copies / file).read_bytes()
    lines = raw.strip().split(b"\n")
    at = 2 * at if format == "daquar" else at  # a question and its answer are a pair
    at = len(lines) if at < 0 else min(at, len(lines))
    lines.insert(at, LINES[file].encode("latin-1"))
    (copies / file).write_bytes(b"\n".join(lines))
    report = Report(limit=0.5)
    try:
        after = check(format, place, split, report)
    finally:
        (copies / file).write_bytes(raw)
    assert {(r.image.path, r.texts, r.question) for r in after} == before
    assert [broken.where.split(", ")[-1] for broken in report.broken] == [f"line {at + 1}"]


def test_ids_match_as_numbers_and_as_texts_in_every_reader(copies: Path) -> None:
    changed = {
        "coco/annotations/captions_val2014.json": "image_id",
        "vqa_v2/v2_mscoco_train2014_annotations.json": "question_id",
        "vqa_v2/v2_OpenEnded_mscoco_train2014_questions.json": "image_id",
        "vizwiz_captions/annotations/train.json": "image_id",
        "aokvqa/aokvqa_v1p0_train.json": "image_id",
        "gqa/train_balanced_questions.json": "imageId",
    }
    graphs = {"scene_graphs": copies / "gqa" / "train_sceneGraphs.json"}
    for file, key in changed.items():
        format = file.split("/")[0]
        split = "val" if format == "coco" else "train"
        options = graphs if format == "gqa" else {}
        before = list(read(copies / format, format, split, **options))
        text = (copies / file).read_text()
        for form in (r'"\1"', r'"000\1"', r"\1.0", r'"\1.0"'):
            changed_text = re.sub(rf'(?<="{key}": )"?(\d+)"?(?=[,\s}}])', form, text)
            (copies / file).write_text(changed_text)
            assert list(read(copies / format, format, split, **options)) == before, (file, form)
        (copies / file).write_text(text)
