from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.data.records import DataError, ImageRef, Record
from training.data.report import Report
from training.evaluation.card import BEGIN, END, fill
from training.evaluation.figures import ROWS, Figure, Row, shapes_said
from training.evaluation.question_prior import predict_by_prior
from training.table import app

FIXTURES = Path(__file__).parent / "fixtures"


def question(text: str, *answers: str) -> Record:
    return Record(ImageRef("photo.jpg"), answers, text)


def test_the_prior_answers_as_most_people_answered_questions_that_begin_alike():
    learnt = [question(f"what colour is the {thing}?", "red") for thing in ("bus", "cup", "hat")]
    learnt += [question(f"what is on the {place}?", "cat", "dog", "cat") for place in "abc"]
    learnt += [question("is it?", "yes")] * 2
    asked = ["What colour is the SKY?", "what is there?", "is it red?", "who?"]
    said = predict_by_prior(learnt, [question(text, "x") for text in asked])
    # "is it" is the beginning of two questions only, so all answers vote: 6 cats, 3 dogs, 3 reds and 2 yes.
    assert [p.text for p in said] == ["red", "cat", "cat", "cat"]
    assert said[0].confidence == 1
    assert said[1].confidence == pytest.approx(2 / 3)
    assert said[3].confidence == pytest.approx(6 / 14)


def test_a_card_keeps_the_rows_that_were_not_measured(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"# Card\n\n{BEGIN}\n{END}\n\nThe end.\n")
    fill(
        card, [Figure("easy-vqa", "easy-VQA", "test, 9 questions", "accuracy", 50.0, (40.0, 60.0))]
    )
    fill(card, [Figure("coco", "COCO", "val, 2 photos", name, 1.0) for name in ("a", "b")])
    fill(card, [Figure("coco", "COCO", "val, 3 photos", "a", None, note="not measured: why")])
    text = card.read_text()
    assert text.startswith("# Card\n\n")
    assert text.endswith(f"{END}\n\nThe end.\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| coco | COCO | val, 3 photos | a | not measured: why | 20")
    assert rows[2].startswith(
        "| easy-vqa | easy-VQA | test, 9 questions | accuracy | 50.0 (40.0 to 60.0) | 20"
    )
    assert len(rows) == 3


@pytest.mark.parametrize("text", ["# A card\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"])
def test_a_card_without_a_place_for_the_table_is_told_before_the_work(tmp_path, text):
    card = tmp_path / "README.md"
    card.write_text(text)
    with pytest.raises(DataError, match="has no lines"):
        fill(card, [])
    assert card.read_text() == text


def test_rows_are_measured_and_written(tiny_checkpoint, tmp_path):
    card, out = tmp_path / "README.md", tmp_path / "figures.json"
    card.write_text(f"{BEGIN}\n{END}\n")
    only = ["flickr8k", "vqa", "vqa-prior", "vqa-question-only", "daquar-dev", "easy-vqa"]
    arguments = ["--model", tiny_checkpoint, "--data", FIXTURES, "--json", out, "--card", card]
    for name in only:
        arguments += ["--only", name]
    result = CliRunner().invoke(app, [str(a) for a in [*arguments, "--limit", 4]])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert list(dict.fromkeys(figure["row"] for figure in figures)) == only
    asked = {figure["name"]: figure for figure in figures if figure["row"] == "vqa"}
    assert 0 <= asked["official accuracy"]["value"] <= 100
    assert asked["ECE of confidence"]["interval"] is None
    (blind,) = [figure for figure in figures if figure["row"] == "vqa-question-only"]
    assert blind["value"] is None
    assert "--question-only" in blind["note"]
    for figure in figures:
        assert f"| {figure['row']} | {figure['data']} | {figure['split']} |" in card.read_text()


def test_an_unknown_row_is_a_sentence(tmp_path):
    result = CliRunner().invoke(app, ["--data", str(tmp_path), "--only", "coko"])
    assert result.exit_code == 2
    assert "there is no row 'coko'; there are: coco" in result.output


def test_a_shape_among_the_answers_is_found(tiny, monkeypatch):
    class Said:
        def __init__(self, text):
            self.text = text

    texts = iter([["dog", "a red Circle"], ["circles", "dog"]])
    monkeypatch.setattr(
        "vlm.encoded_image.EncodedImage.ask_all", lambda self, questions: map(Said, next(texts))
    )
    photo = next(iter(sorted((FIXTURES / "flickr8k").rglob("*.jpg"))))
    records = [Record(ImageRef(str(photo)), ("a photo",))] * 2
    assert shapes_said(tiny, records, Report()).tolist() == [True, False]


def test_no_two_figures_have_the_same_name():
    rows = [row for row in ROWS.values() if isinstance(row, Row)]
    titles = [(row.data, row.split, title) for row in rows for title in row.figures.values()]
    assert len(titles) == len(set(titles))
