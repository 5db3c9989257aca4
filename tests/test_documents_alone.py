"""Questions about documents without a photo: what they rest on, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hashed import HashedWords
from PIL import Image
from typer.testing import CliRunner

import vlm
from vlm.captioner import Captioner
from vlm.citations import FROM_NOTHING, NOT_THERE
from vlm.cli import app
from vlm.documents.index import Index
from vlm.documents.passages import Passage
from vlm.explain.method import MethodError
from vlm.explain.regions import RegionError
from vlm.passages_beside import NO_DOCUMENTS, DocumentsError
from vlm.prompts import QuestionError

QUESTION = "is there a dog?"
TEXTS = ["The black cat is a dog.", "Two men run in the park."]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.open(tmp_path / "index.db", HashedWords()) as index:
        for text in TEXTS:
            index.put(text[:3], [Passage(text, text[:3], None, 0, len(text))])
        yield index


def test_the_answer_rests_on_passages_alone(reading: Captioner) -> None:
    answer = vlm.ask_documents(QUESTION, TEXTS, reading, beams=1)
    assert answer.evidence is not None
    assert [use.passage for use in answer.evidence.sources] == [0, 1]
    assert sum(use.share for use in answer.evidence.sources) == pytest.approx(1, abs=1e-5)
    assert answer.citation is not None
    assert "photo" not in answer.citation
    said = answer.to_dict()
    assert [source["source"] for source in said["sources"]] == ["document 1", "document 2"]
    assert said["image_effect"] == pytest.approx(0, abs=1e-4)
    assert all(len(word["lost"]) == len(word["shares"]) == 2 for word in said["words"])


def test_it_says_what_the_model_says_beside_its_mean_image(reading: Captioner) -> None:
    alone = vlm.ask_documents(QUESTION, TEXTS, reading, beams=1)
    photo = Image.effect_noise((64, 64), 90).convert("RGB")
    seen = reading.encode(photo).beside(TEXTS)
    blind, beside = seen._unseen(alone), reading.score_ids(seen, alone.ids, QUESTION)
    assert sum(alone.logprobs) == pytest.approx(sum(blind.logprobs), abs=1e-3)
    assert sum(alone.logprobs) != pytest.approx(sum(beside.logprobs), abs=1e-2)


def test_an_answer_that_needs_no_passage_is_from_nothing(
    reading: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm.explain.evidence.LEAST", float("inf"))
    answer = vlm.ask_documents(QUESTION, TEXTS, reading, beams=1)
    assert answer.citation in (FROM_NOTHING, NOT_THERE)


def test_of_an_index_the_passages_that_fit_are_read(reading: Captioner, index: Index) -> None:
    for number in range(20):
        text = f"number {number} is a red sofa"
        index.put(text, [Passage(text, text, None, 0, len(text))])
    answer = vlm.ask_documents(QUESTION, index, reading, beams=1)
    assert answer.image is not None
    assert "The" in {passage.source for passage in answer.image.passages}
    assert len(answer.image.passages) <= 4


def test_what_cannot_be_answered_is_told(
    reading: Captioner, tiny: Captioner, tmp_path: Path
) -> None:
    with pytest.raises(DocumentsError, match="reads no documents"):
        vlm.ask_documents(QUESTION, TEXTS, tiny)
    with pytest.raises(DocumentsError, match="there is no document"):
        vlm.ask_documents(QUESTION, [], reading)
    with pytest.raises(DocumentsError, match="a list of texts"):
        vlm.ask_documents(QUESTION, TEXTS[0], reading)
    with pytest.raises(QuestionError, match="empty"):
        vlm.ask_documents(" ", TEXTS, reading)
    with (
        Index.open(tmp_path / "empty.db", HashedWords()) as empty,
        pytest.raises(DocumentsError, match="there is no document"),
    ):
        vlm.ask_documents(QUESTION, empty, reading)


def test_there_is_no_photo_to_map_or_to_hide(reading: Captioner) -> None:
    answer = vlm.ask_documents(QUESTION, TEXTS, reading, beams=1)
    for look in (answer.maps, answer.overlay):
        with pytest.raises(MethodError, match="there is no photo"):
            look()
    with pytest.raises(RegionError, match="there is no photo"):
        answer.what_if(hide=(0, 0, 9, 9))


def test_a_verdict_is_not_of_a_photo(trusted_checkpoint: Path) -> None:
    model = vlm.load(trusted_checkpoint)
    answer = vlm.ask_documents(QUESTION, TEXTS, model, beams=1)
    assert answer.judgement is not None
    assert answer.judgement.photo


@pytest.fixture
def ask(trusted_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text(TEXTS[0])
    Image.new("RGB", (64, 64)).save("photo.png")

    def run(*arguments: str, model: str | Path = trusted_checkpoint):
        result = CliRunner().invoke(app, ["ask", *arguments, "--model", str(model)])
        assert "Traceback" not in result.output
        return result

    return run


def test_the_command_takes_questions_without_a_photo(ask) -> None:
    result = ask(QUESTION, "is it red?", "--docs", "notes.txt", "--json", "--trace", "trace.jsonl")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["image"], line["question"]) for line in lines] == [
        (None, QUESTION),
        (None, "is it red?"),
    ]
    assert {source["source"] for line in lines for source in line["sources"]} == {
        str(Path("notes.txt").resolve())
    }
    assert len(Path("trace.jsonl").read_text().splitlines()) == 2
    report = CliRunner().invoke(app, ["signals", "trace.jsonl"])
    assert report.exit_code == 0, report.output
    beside = ask("photo.png", QUESTION, "--docs", "notes.txt", "--json")
    assert json.loads(beside.stdout)["sources"][0]["source"] == "photo"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["gone.jpg", QUESTION, "--docs", "notes.txt"], 2, "gone.jpg: no such file"),
        (["photo.png", "--docs", "notes.txt"], 2, "give a photo and behind it"),
        ([QUESTION, "--docs", "gone.txt"], 2, "gone.txt: no such file"),
        ([QUESTION, "--docs", "notes.txt", "--metadata"], 2, "give a photo before the question"),
        (["", "--docs", "notes.txt"], 2, "the question is empty"),
        ([QUESTION, "what?"], 2, "no such file"),
    ],
)
def test_the_command_says_what_is_missing(ask, arguments: list[str], code: int, told: str) -> None:
    result = ask(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr


def test_a_model_without_the_layers_is_one_sentence(ask, tiny_checkpoint: Path) -> None:
    result = ask(QUESTION, "--docs", "notes.txt", model=tiny_checkpoint)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.strip() == f"error: {NO_DOCUMENTS}"
