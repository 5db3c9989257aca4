"""`vlm ask-all`: one question to all photos of a folder, by one token each."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vlm
from vlm.cli import app
from vlm.folder.yes_no import yes_or_no
from vlm.prompts import QuestionError, text_ids

EXAMPLES = Path(__file__).resolve().parent.parent / "assets" / "examples"
QUESTION = "is there a dog in the picture?"


@pytest.fixture
def photos(tmp_path):
    for name in ("dog.jpg", "horses.jpg"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / name, tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def ask_all(tiny_checkpoint):
    def invoke(*arguments, code=0):
        command = [str(a) for a in ("ask-all", *arguments, "--model", tiny_checkpoint)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == code, result.output
        return result

    return invoke


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_probabilities_are_those_of_the_first_token(tiny, photos):
    """In a batch they are those that scoring the words alone gives."""
    files = sorted(photos.iterdir())
    for file, said in zip(files, yes_or_no(tiny, files, QUESTION)):
        image = tiny.encode(file)
        yes, no = (
            math.exp(
                tiny.score_ids(image, text_ids(tiny.tokenizer, w)[:1], QUESTION, False).logprobs[0]
            )
            for w in ("yes", "no")
        )
        assert said.yes == pytest.approx(yes / (yes + no), abs=1e-4)
        assert said.share == pytest.approx(yes + no, abs=1e-5)
        assert said.answer == ("yes" if yes >= no else "no")


def test_words_that_begin_alike_are_told(tiny, monkeypatch):
    monkeypatch.setattr("vlm.folder.yes_no.text_ids", lambda *_: [7, 8])
    with pytest.raises(QuestionError, match="vlm ask"):
        yes_or_no(tiny, [EXAMPLES / "dog.jpg"], QUESTION)


def test_a_row_for_each_photo_and_the_next_run_adds_what_is_missing(ask_all, photos, tmp_path):
    (photos / "empty.jpg").touch()
    out = tmp_path / "people.csv"
    result = ask_all(photos, "Is there  a dog in the picture", "--csv", out, code=1)
    assert "empty.jpg is empty" in result.stderr
    assert [row["image"] for row in rows(out)] == ["photos/dog.jpg", "photos/horses.jpg"]
    assert {row["question"] for row in rows(out)} == {QUESTION}
    assert all((float(row["yes"]) >= 0.5) == (row["answer"] == "yes") for row in rows(out))
    whole = out.read_bytes()

    (photos / "empty.jpg").unlink()
    out.write_bytes(whole[:-4])
    assert "1 answers more" in ask_all(photos, QUESTION, "--csv", out).stdout
    assert out.read_bytes() == whole
    assert "another question" in ask_all(photos, "is it red?", "--csv", out, code=2).stderr
    ask_all(photos, "is it red?", "--csv", out, "--overwrite")
    assert {row["question"] for row in rows(out)} == {"is it red?"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["photos", "--csv", "x.csv"], "give a folder and a question"),
        (["photos", "photos", "--csv", "x.csv"], "give a folder and a question"),
        (["photos", "?", "--csv", "x.csv"], "the question is empty"),
        (["photos", "is it?", "--csv", "x.jsonl"], "ends in .csv"),
        (["none", "is it?", "--csv", "x.csv"], "none: no such file"),
    ],
)
def test_a_wrong_request_is_one_sentence(ask_all, photos, monkeypatch, arguments, says):
    monkeypatch.chdir(photos.parent)
    result = ask_all(*arguments, code=2)
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("x.csv").exists()


def test_the_bundled_model_finds_the_people():
    captioner = vlm.load("small", "cpu")
    photos = sorted(EXAMPLES.glob("*.jpg"))
    said = yes_or_no(captioner, photos, "is there a person?")
    found = {photo.stem for photo, answer in zip(photos, said) if answer.answer == "yes"}
    assert found == {"astronaut", "photographer"}
    assert min(answer.share for answer in said) > 0.5
