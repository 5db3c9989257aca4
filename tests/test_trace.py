"""A line about each request: what it holds, and that it is whole and costs no answer."""

from __future__ import annotations

import json
import math
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vlm.app.page import Page, describe
from vlm.captioner import Captioner
from vlm.cli import app
from vlm.documents.passages import Passage
from vlm.engine import Engine
from vlm.images import ImageError
from vlm.options import CAPTION
from vlm.trace import Tracer, settings_of, word_entropies
from vlm.trace_lines import TraceError, TraceFile

DOG = Path(__file__).resolve().parent.parent / "assets" / "examples" / "dog.jpg"
QUESTION = "is there a dog?"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


def tracer(file: TraceFile, captioner: Captioner) -> Tracer:
    return Tracer(file, settings_of(captioner, "tiny", "float32", False))


def test_a_line_tells_what_entered_and_how_the_answer_came_about(tiny, path):
    image = tiny.encode(DOG)
    answer = image.ask(QUESTION)
    with TraceFile(path) as file:
        tracer(file, tiny).answered(answer, CAPTION, wait_ms=5.0, source="dog.jpg")
    [line] = lines(path)
    assert line["image"] == {
        "format": "JPEG",
        "width": 640,
        "height": 480,
        "sha256": tiny.read(DOG).sha256,
    }
    assert line["question"]["characters"] == len(QUESTION)
    assert (line["task"], line["source"], line["retrieved"]) == ("answer", "dog.jpg", [])
    assert (line["model"], line["device"], line["options"]["beams"]) == ("tiny", "cpu", 3)
    assert line["ms"]["wait"] == 5
    assert all(line["ms"][stage] > 0 for stage in ("read", "encode", "first_token", "signals"))
    whole = line["ms"]["first_token"] + line["ms"]["tokens"]
    assert whole == pytest.approx(answer.ms["decode"], abs=0.02)
    assert line["image_effect"] == pytest.approx(answer.image_effect.total, abs=1e-3)
    assert line["tokens"] == len(answer.ids)
    assert sum(line["shares"].values()) == pytest.approx(1, abs=1e-3)
    for word, said in zip(line["words"], answer.words, strict=True):
        assert word["logprob"] == pytest.approx(said.logprob, abs=1e-3)
    text = path.read_text()
    assert QUESTION not in text
    assert answer.text not in text


def test_passages_are_told_by_place_and_hash(reading, path):
    passage = Passage("the black cat is a dog", "secret.pdf", 3, 40, 62)
    answer = reading.encode(DOG).beside([passage]).ask("is \ud800 there a dog?")
    with TraceFile(path) as file:
        tracer(file, reading).answered(answer, CAPTION)
    [line] = lines(path)
    [told] = line["retrieved"]
    assert (told["page"], told["start"], told["characters"]) == (3, 40, 22)
    assert len(told["sha256"]) == 64
    assert len(line["shares"]) == 2
    assert "secret" not in path.read_text()


def test_copies_of_a_photo_have_one_hash_and_others_another(tiny, tmp_path):
    copy = tmp_path / "copy.png"
    picture = Image.open(DOG).convert("RGB").resize((96, 96))
    picture.save(copy)
    assert (
        tiny.read(copy).sha256 == tiny.read(copy.read_bytes()).sha256 == tiny.read(picture).sha256
    )
    assert tiny.read(copy).sha256 != tiny.read(picture.rotate(90)).sha256
    assert tiny.read(copy).entered.format == "PNG"
    assert tiny.read(picture).entered.format is None


@pytest.mark.parametrize("question", [None, QUESTION])
def test_entropies_are_those_of_each_step(tiny, question):
    image = tiny.encode(DOG)
    answer = image.caption(max_tokens=6) if question is None else image.ask(question)
    found = word_entropies(answer)
    projected, (prompt,) = tiny.start([image], None if question is None else [question])
    by_token = []
    for count in range(len(answer.ids)):
        sequence = torch.tensor([[*prompt, *answer.ids[:count]]])
        with torch.inference_mode():
            hidden = tiny.model.decoder(sequence, projected).hidden[:, -1]
            chances = torch.distributions.Categorical(logits=tiny.model.decoder.logits(hidden))
        by_token.append(float(chances.entropy()))
    assert len(found) == len(answer.words)
    assert math.fsum(found) == pytest.approx(math.fsum(by_token), rel=1e-3)


def test_threads_write_whole_lines(path):
    with TraceFile(path) as file:
        texts = [str(number) * 5000 for number in range(8)]

        def write(text: str) -> None:
            for _ in range(50):
                file.write({"text": text})

        threads = [threading.Thread(target=write, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [line["text"] for line in lines(path)]
    assert sorted(found) == sorted(texts * 50)


def test_half_a_line_of_a_killed_run_damages_no_other(path):
    path.write_text('{"a": 1}\n{"half')
    with TraceFile(path) as file:
        file.write({"b": 2})
    assert path.read_text().splitlines() == ['{"a": 1}', '{"half', '{"b": 2}']


def test_a_full_disk_is_told_once_and_loses_no_answer(tiny, path, capsys):
    """A limit on a file's size stands for the disk: it leaves room for a part of a line, too."""
    answer = tiny.encode(DOG).caption(max_tokens=4)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TraceFile(path) as file:
        traced = tracer(file, tiny)
        traced.answered(answer, CAPTION)
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2, old[1]))
        try:
            for _ in range(3):
                traced.answered(answer, CAPTION)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert capsys.readouterr().err.count("a line was lost") == 1
        traced.answered(answer, CAPTION)
    assert "3 lines were lost" in capsys.readouterr().err
    first, half, last = path.read_text().splitlines()
    assert json.loads(first)["tokens"] == json.loads(last)["tokens"]
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads(half)


def test_a_defect_of_the_signals_loses_a_line_and_no_answer(tiny, path, capsys, monkeypatch):
    monkeypatch.setattr("vlm.trace.word_entropies", lambda answer: 1 / 0)
    with TraceFile(path) as file, Engine(tiny, tracer(file, tiny)) as engine:
        image = engine.call("me", lambda: tiny.encode(DOG)).result()
        assert engine.caption("me", image).result().text
        assert engine.caption("me", image).result().text
    assert lines(path) == []
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path):
    with pytest.raises(TraceError, match="cannot be written"):
        TraceFile(tmp_path / "nowhere" / "trace.jsonl")


def test_the_engine_traces_all_that_its_owners_ask(tiny, path):
    with TraceFile(path) as file, Engine(tiny, tracer(file, tiny)) as engine:
        image = tiny.encode(DOG)
        busy = threading.Event()
        engine.call("first", busy.wait)
        jobs = [engine.caption(owner, image) for owner in range(3)]
        jobs.append(engine.ask("asks", image, QUESTION, beams=2))
        left = engine.caption("leaves", image)
        left.cancel()
        busy.set()
        for job in jobs:
            job.result()
        failing = engine.call("bad", lambda: tiny.encode(b"no image"))
        with pytest.raises(ImageError):
            failing.result()
    found = lines(path)
    assert [line.get("task") for line in found] == ["caption"] * 3 + ["answer", None]
    assert found[-1]["error"] == "ImageError"
    assert [line["batch"] for line in found[:4]] == [3, 3, 3, 1]
    assert all(line["ms"]["wait"] > 0 for line in found[:4])
    assert found[3]["options"]["beams"] == 2


def test_the_page_traces_a_photo_by_its_own_size(tiny, path):
    with TraceFile(path) as file, Engine(tiny, tracer(file, tiny)) as engine:
        list(describe(engine, Page(), DOG, "dog.jpg", 1))
    [line] = lines(path)
    assert (line["image"]["width"], line["image"]["height"]) == (640, 480)
    assert "source" not in line


def test_the_commands_trace(tiny_checkpoint, tmp_path, path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        Image.open(DOG).resize((80, 60)).save(photos / name)
    (photos / "c.png").write_bytes(b"no image")
    model = ("--model", str(tiny_checkpoint), "--trace", str(path))
    result = CliRunner().invoke(app, ["caption", str(photos), *model])
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert "c.png" in result.stderr
    asked = CliRunner().invoke(app, ["ask", str(photos / "a.png"), QUESTION, "what?", *model])
    assert asked.exit_code == 0
    found = lines(path)
    assert [line.get("task") for line in found] == ["caption", "caption", None, "answer", "answer"]
    assert [line.get("source") for line in found[:2]] == [
        str(photos / n) for n in ("a.png", "b.png")
    ]
    assert found[0]["image"]["width"] == 80
    assert found[0]["model"] == str(tiny_checkpoint)
    assert found[3]["options"]["beams"] == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_command_on_a_full_disk_gives_its_answers(tiny_checkpoint):
    options = ["--model", str(tiny_checkpoint), "--trace", "/dev/full"]
    result = CliRunner().invoke(app, ["ask", str(DOG), QUESTION, "what?", *options])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.count("No space left") == 1
