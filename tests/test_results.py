from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image

from training.data.records import ImageRef, Record
from training.evaluation.predict import Prediction
from training.evaluation.results import Result, as_record, plot_confidence, show, write_predictions
from training.evaluation.scoring import differences, evaluate_answers, evaluate_captions


def answers(model: str, right: int, blind: bool = False) -> Result:
    """Ten answers of which the first `right` are right, about an image each."""
    predictions = [
        Prediction(
            Record(ImageRef(f"{i}.jpg"), ("yes",), "Is it red?", id=str(i), kind="yes/no"),
            "yes" if i < right else "no",
            0.9 if i < right else 0.4,
            "" if i < 9 else "the question is too long",
        )
        for i in range(10)
    ]
    return Result(model, blind, predictions, evaluate_answers(predictions), seconds=1.25)


def captions() -> Result:
    texts = ["a brown dog runs", "two men play football"]
    predictions = [
        Prediction(Record(ImageRef(f"{i}.jpg"), (text, "a photo"), id=f"i{i}"), text, 0.5)
        for i, text in enumerate(texts)
    ]
    return Result("m", False, predictions, evaluate_captions(predictions), seconds=2.0)


def test_one_model_as_json():
    record = json.loads(json.dumps(as_record("vqa", [answers("m", 8)], None), allow_nan=False))
    assert record["task"] == "vqa"
    assert (record["n"], record["model"], record["seconds"]) == (10, "m", 1.25)
    assert record["metrics"]["accuracy"] == 80
    low, high = record["ci95"]["accuracy"]
    assert low < 80 < high
    assert record["by_type"]["kind"] == {"yes/no": {"n": 10, "accuracy": 80}}
    assert [b["n"] for b in record["reliability"] if b["n"]] == [2, 8]
    assert "blind" not in record
    record = as_record("caption", [captions()], None)
    assert set(record) == {"task", "n", "metrics", "ci95", "model", "seconds", "definitions"}
    assert {"CHAIR-s", "CHAIR-i"} == set(record["definitions"])
    assert {"CIDEr", "BLEU-4"} <= set(record["metrics"])
    record = as_record("vqa", [answers("m", 8)], None)
    assert record["unread_questions"] == {"n": 1, "first": "the question is too long"}


def test_what_has_no_figure_is_said_in_words_and_in_no_number(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    predictions = captions().predictions[:1]
    one = Result("m", False, predictions, evaluate_captions(predictions), seconds=2.0)
    record = json.loads(json.dumps(as_record("caption", [one], None), allow_nan=False))
    assert record["missing"]["CIDEr"].startswith("needs two images")
    assert "CIDEr" not in record["metrics"] | record["ci95"]
    file = io.StringIO()
    write_predictions(file, "caption", one)
    assert "CIDEr" not in json.loads(file.getvalue())["scores"]
    show("caption", [one, captions()], {})
    rows = [line.replace("│", " ") for line in capsys.readouterr().out.splitlines()]
    [row] = [row for row in rows if row.split()[:1] == ["CIDEr"]]
    assert "needs two images" in row
    assert len(re.findall(r"\d+\.\d\d", row)) == 3  # the other model's figure and interval


def test_two_models_as_json():
    pair = [answers("a", 2), answers("b", 9, blind=True)]
    compared = differences(*(result.evaluation for result in pair))
    record = json.loads(json.dumps(as_record("vqa", pair, compared), allow_nan=False))
    assert [m["model"] for m in record["models"]] == ["a", "b"]
    assert record["models"][1]["blind"]
    difference = record["difference"]["accuracy"]
    assert difference["value"] == 70
    assert difference["more_than_noise"]
    assert difference["ci95"][0] > 0


def test_predictions_are_written_one_a_line():
    file = io.StringIO()
    write_predictions(file, "vqa", answers("m", 8))
    rows = [json.loads(line) for line in file.getvalue().splitlines()]
    assert rows[0] == {
        "model": "m",
        "image": "0.jpg",
        "id": "0",
        "question": "Is it red?",
        "kind": "yes/no",
        "answer": "yes",
        "answers": ["yes"],
        "confidence": 0.9,
        "scores": {"accuracy": 100},
    }
    assert [row["scores"]["accuracy"] for row in rows] == [100] * 8 + [0] * 2
    assert rows[9]["problem"] == "the question is too long"
    file = io.StringIO()
    write_predictions(file, "caption", captions())
    row = json.loads(file.getvalue().splitlines()[1])
    assert (row["caption"], row["references"][1]) == ("two men play football", "a photo")
    assert row["scores"]["ROUGE-L"] == pytest.approx(100)
    assert row["invented"] == []


def test_tables_hold_the_figures(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    pair = [answers("first", 2), answers("second", 9, blind=True)]
    show("vqa", pair, differences(*(result.evaluation for result in pair)))
    out = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    accuracy = [row for row in rows if row[:1] == ["accuracy"]]
    assert (accuracy[0][1], accuracy[0][5]) == ("20.00", "90.00")
    assert (accuracy[1][1], accuracy[1][-1]) == ("+70.00", "yes")
    assert ["yes/no", "10", "20.0", "90.0"] in rows
    assert ["is", "it", "10", "20.0", "90.0"] in rows
    assert "second (blind)" in out
    assert "could not read 1 of its questions" in out


def test_confidence_is_plotted(tmp_path):
    plot_confidence([answers("a", 8), answers("b", 3)], tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size[0] > 500
