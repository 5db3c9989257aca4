from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from training.data.records import DataError, ImageRef, Record
from training.data.report import Report
from training.evaluation.predict import (
    blind_image,
    predict_answers,
    predict_captions,
    with_all_captions,
)

FIXTURES = Path(__file__).parent / "fixtures"
SQUARES = sorted((FIXTURES / "kohya" / "5_square").glob("*.png"))


def record(path: Path, question: str | None = None, text: str = "red") -> Record:
    return Record(ImageRef(str(path)), (text,), question)


def test_captions_are_those_of_the_captioner(tiny, monkeypatch):
    monkeypatch.setattr("training.evaluation.predict.BATCH", 4)
    assert len(SQUARES) > 2 * 4
    said = list(predict_captions(tiny, [record(path) for path in SQUARES], Report()))
    expected = [tiny.encode(path).caption() for path in SQUARES]
    assert [p.record.image.path for p in said] == [str(path) for path in SQUARES]
    assert [p.text for p in said] == [answer.text for answer in expected]
    assert [p.confidence for p in said] == pytest.approx([a.confidence for a in expected], rel=1e-3)


def test_beams_reach_the_search(tiny):
    records = [record(path) for path in SQUARES[:3]]
    greedy = [p.text for p in predict_captions(tiny, records, Report(), {"beams": 1})]
    assert greedy == [tiny.encode(path).caption(beams=1).text for path in SQUARES[:3]]
    assert greedy != [p.text for p in predict_captions(tiny, records, Report(), {"beams": 4})]
    asked = [record(SQUARES[0], "what colour is the shape?")]
    [answer] = predict_answers(tiny, asked, Report(), {"beams": 1})
    assert answer.text == tiny.encode(SQUARES[0]).ask(asked[0].question, beams=1).text


def test_questions_of_one_image_share_its_encoding(tiny, monkeypatch):
    encoded = []
    encode_all = tiny.encode_all
    monkeypatch.setattr(
        tiny, "encode_all", lambda sources: encoded.extend(sources) or encode_all(sources)
    )
    questions = ["is there a dog in the picture?", "how many people are there?"]
    records = [record(path, q) for q in questions for path in SQUARES[:2]]
    said = list(predict_answers(tiny, records, Report()))
    assert len(encoded) == 2
    assert {(p.record.image.path, p.record.question): p.text for p in said} == {
        (str(path), q): tiny.encode(path).ask(q).text for path in SQUARES[:2] for q in questions
    }


def test_questions_are_asked_as_the_trainer_writes_them(tiny):
    rough, clean = "what is on  the night_stand ?", "what is on the night stand?"
    [first] = predict_answers(tiny, [record(SQUARES[0], rough)], Report())
    assert first.text == tiny.encode(SQUARES[0]).ask(clean).text


def test_a_question_that_cannot_be_read_is_answered_with_nothing(tiny):
    questions = ["is it a dog?", "why " * 500]
    said = list(predict_answers(tiny, [record(SQUARES[0], q) for q in questions], Report()))
    assert said[0].text == tiny.encode(SQUARES[0]).ask("is it a dog?").text
    assert (said[1].text, said[1].confidence) == ("", 0.0)
    assert "too long" in said[1].problem


@pytest.mark.parametrize("predict", [predict_captions, predict_answers])
def test_images_that_cannot_be_read_are_left_out_and_named(tiny, tmp_path, predict):
    broken = tmp_path / "broken.png"
    broken.write_bytes(SQUARES[0].read_bytes()[:60])
    paths = [SQUARES[0], broken, tmp_path / "missing.png", SQUARES[1]]
    report = Report(limit=0.5)
    said = list(predict(tiny, [record(path, "is it red?") for path in paths], report))
    assert [p.record.image.path for p in said] == [str(SQUARES[0]), str(SQUARES[1])]
    assert [broken.where for broken in report.broken] == [str(broken), str(paths[2])]
    with pytest.raises(DataError, match="2 of 4 entries are broken"):
        list(predict(tiny, [record(path, "is it red?") for path in paths], Report(limit=0.4)))


def test_a_blind_model_is_given_zeros_and_no_image(tiny, tmp_path):
    missing = [tmp_path / f"{i}.png" for i in range(2)]
    said = list(predict_captions(tiny, [record(path) for path in missing], Report(), blind=True))
    assert said[0].text == said[1].text

    # The same by hand: the features of a real image, times zero, before the adapter.
    pixels, _ = tiny.preprocess(Image.open(SQUARES[0]).convert("RGB"))
    with torch.inference_mode():
        patches, grid = tiny.model.vision(pixels[None])
        memory = tiny.model.remember(patches * 0, grid)
    assert torch.equal(blind_image(tiny).memory.tokens, memory.tokens)


def test_captions_of_one_image_become_one_record():
    paths = [SQUARES[0], SQUARES[1], SQUARES[0]]
    records = [record(path, text=text) for path, text in zip(paths, "abc")]
    assert [r.texts for r in with_all_captions(records)] == [("a", "c"), ("b",)]
