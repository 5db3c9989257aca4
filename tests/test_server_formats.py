"""What evaluation servers read, for splits whose answers are secret."""

from __future__ import annotations

import io
import json

import pytest

from training.data.records import DataError, ImageRef, Record
from training.evaluation.predict import Prediction
from training.evaluation.server_formats import SERVER_FORMATS, check_submission, write_submission


def secret(number: int, id: str, task: str) -> Record:
    return Record(ImageRef(f"{number}.jpg"), (), "what is it?" if task == "vqa" else None, id=id)


@pytest.mark.parametrize(
    ("name", "ids", "rows"),
    [
        (
            "vqa",
            ("262148000", "262148001"),
            [
                {"question_id": 262148000, "answer": "a dog"},
                {"question_id": 262148001, "answer": ""},
            ],
        ),
        (
            "vizwiz",
            ("VizWiz_test_00000000.jpg", "VizWiz_test_00000001.jpg"),
            [
                {"image": "VizWiz_test_00000000.jpg", "answer": "a dog"},
                {"image": "VizWiz_test_00000001.jpg", "answer": ""},
            ],
        ),
        (
            "gqa",
            ("201307251", "201640614"),
            [
                {"questionId": "201307251", "prediction": "a dog"},
                {"questionId": "201640614", "prediction": ""},
            ],
        ),
        (
            "coco",
            ("404464", "380932"),
            [{"image_id": 404464, "caption": "a dog"}, {"image_id": 380932, "caption": ""}],
        ),
        (
            "textcaps",
            ("0054c91397f2fe05", "00b5079e33e73e13"),
            [
                {"image_id": "0054c91397f2fe05", "caption": "a dog"},
                {"image_id": "00b5079e33e73e13", "caption": ""},
            ],
        ),
    ],
)
def test_every_entry_is_written_in_order_and_what_was_not_seen_is_empty(name, ids, rows):
    task = SERVER_FORMATS[name].task
    records = [secret(number, id, task) for number, id in enumerate(ids)]
    check_submission(name, task, records)
    file = io.StringIO()
    write_submission(file, name, records, [Prediction(records[0], "a dog", 0.5)])
    assert json.loads(file.getvalue()) == rows


@pytest.mark.parametrize(
    ("name", "task", "id", "reason"),
    [
        ("evalai", "vqa", "1", "no server format 'evalai'; there are vqa, vizwiz"),
        ("coco", "vqa", "1", "goes with --task caption"),
        ("vqa", "vqa", "q-1", "a whole number, and 'q-1'"),
        ("coco", "caption", "", "a whole number, and ''"),
        ("gqa", "vqa", "", "has no id"),
    ],
)
def test_what_a_server_would_refuse_is_known_before_a_model_runs(name, task, id, reason):
    with pytest.raises(DataError, match=reason):
        check_submission(name, task, [secret(0, id, task)])
