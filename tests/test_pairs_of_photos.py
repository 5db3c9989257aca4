"""Captions beside those of similar photos: which photo's are read, and what the commands do and say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlm.captioner import Captioner
from vlm.cli.main import app
from vlm.documents.photo_pairs import PhotoPairs
from vlm.passages_beside import NO_DOCUMENTS, DocumentsError
from vlm.weights.store import save_checkpoint


def photo(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(256, size=(4, 4, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((64, 64), Image.Resampling.NEAREST)


@pytest.fixture
def store(reading: Captioner, tmp_path: Path):
    with PhotoPairs.open(tmp_path / "pairs.db", reading.blank_vector, create=True) as pairs:
        yield pairs


def test_the_same_photo_is_the_most_similar(reading: Captioner, store: PhotoPairs):
    for seed in range(6):
        store.add(f"{seed}.png", reading.encode(photo(seed)).vector, f"photo {seed}")
    beside = reading.encode(photo(3)).recall(store)
    assert beside.passages[0].source == "3.png"
    assert len(beside.passages) == reading.model.config.documents.most
    alone = reading.encode(photo(3)).caption(max_tokens=4)
    answer = beside.caption(max_tokens=4)
    assert alone.evidence is None
    assert [s.passage for s in answer.evidence.sources] == [None, *range(len(beside.passages))]


def test_what_cannot_be_read_is_told(reading: Captioner, tiny: Captioner, store: PhotoPairs):
    with pytest.raises(DocumentsError, match="no pairs of photos and captions yet"):
        reading.encode(photo(0)).recall(store)
    with pytest.raises(DocumentsError, match="reads no documents"):
        tiny.encode(photo(0)).recall(store)


@pytest.fixture
def run(reading: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "model", reading.model, reading.tokenizer)
    for seed in range(4):
        photo(seed).save(f"{seed}.png")
    Path("0.txt").write_text("a dog\nour dog Bolt\n")

    def invoke(*arguments: str, model: str | Path | None = "model"):
        chosen = [] if model is None else ["--model", str(model)]
        result = CliRunner().invoke(app, [*arguments, *chosen])
        assert "Traceback" not in result.output
        return result

    return invoke


def test_pairs_are_kept_read_listed_and_forgotten(run):
    assert "2 pairs more, 2 in all" in run("pairs", "add", "0.png").output
    assert "1 pairs more, 3 in all" in run("pairs", "add", "1.png", "--caption", "a cat").output
    assert "2 pairs more, 3 in all" in run("pairs", "add", "0.png").output  # in place of the old
    result = run("caption", "2.png", "3.png", "--pairs", "pairs.db", "--json")
    assert result.exit_code == 0, result.output
    for line in result.stdout.splitlines():
        texts = {source.get("text") for source in json.loads(line)["sources"]}
        assert texts == {None, "a dog", "our dog Bolt", "a cat"}
    listed = run("pairs", "list", model=None).stdout.splitlines()
    assert [line.rpartition("/")[2] for line in listed] == [
        "0.png: a dog",
        "0.png: our dog Bolt",
        "1.png: a cat",
    ]
    assert run("pairs", "remove", "0.png", model=None).exit_code == 0
    assert len(run("pairs", "list", model=None).stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("pairs", "add", "3.png"), 2, "3.png has no caption: write 3.txt, or give --caption"),
        (("pairs", "add", "3.png", "--caption", " "), 2, "empty caption"),
        (("pairs", "add", "gone.png", "--caption", "a"), 2, "gone.png"),
        (("caption", "0.png", "--pairs", "gone.db"), 2, "gone.db: no such file; vlm pairs add"),
        (("caption", "0.png", "--pairs", "0.png"), 2, "0.png"),
    ],
)
def test_what_a_command_misses_is_one_sentence(run, arguments, code, told):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert told in result.stderr


def test_a_photo_without_a_caption_stops_no_other(run):
    result = run("pairs", "add", "0.png", "3.png")
    assert (result.exit_code, result.stdout) == (1, "pairs.db: 2 pairs more, 2 in all\n")
    assert "3.png has no caption" in result.stderr


def test_models_are_told_apart(run, tiny_checkpoint: Path):
    assert run("pairs", "add", "0.png").exit_code == 0
    result = run("caption", "1.png", "--pairs", "pairs.db", model=tiny_checkpoint)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.strip().endswith(NO_DOCUMENTS)
