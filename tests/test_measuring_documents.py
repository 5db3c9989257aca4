"""Figures of the use of passages: planted readers must score what was planted."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from training.data.records import DataError, ImageRef, Record
from training.documents import app
from training.evaluation.pair_captions import ELSEWHERE, NAMED, measure_pairs
from training.evaluation.trust_report import store
from vlm.captioner import Captioner
from vlm.model.config import CalibrationConfig, DocumentsConfig, VerdictConfig
from vlm.model.model import VisionLanguageModel
from vlm.passages_beside import NO_DOCUMENTS
from vlm.weights.store import save_checkpoint


@dataclass
class Said:
    text: str


class Reads:
    """As much of a captioner as says how many passages are read at once."""

    reading = DocumentsConfig(length=200, most=8)

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer


@dataclass
class Planted:
    """An image whose caption is `alone`, and beside passages what `reads` makes of them."""

    reads: object
    vector: list[float]
    captioner: Reads
    passages: list[str] = field(default_factory=list)

    def beside(self, passages):
        return replace(self, passages=[passage.text for passage in passages])

    def recall(self, pairs):
        return self.beside([one.passage for one in pairs.similar(self.vector, 8)])

    def caption(self) -> Said:
        return Said(self.reads(self.passages) if self.passages else "a dog by a table")


class Reader:
    """A captioner whose photos are like each other by their first pixel."""

    blank_vector = (0.0, 1.0)

    def __init__(self, reads, tokenizer) -> None:
        self.reads = reads
        self.captioner = Reads(tokenizer)

    def encode(self, data) -> Planted:
        value = np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0] / 255
        return Planted(self.reads, [value, 1.0], self.captioner)


@pytest.fixture
def photos(tmp_path: Path) -> list[list[Record]]:
    texts = ["a small dog by a table", "the cat sleeps", "a man on a horse", "a red bus"]
    every = []
    for number in range(40):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (number * 6, 0, 0)).save(file)
        caption = f"{texts[number % 4]} at {number} o'clock"
        every.append([Record(ImageRef(str(file)), (caption,))])
    return every


def everything(passages: list[str]) -> str:
    return " ".join(passages)


def first_name(passages: list[str]) -> str:
    """What most passages name."""
    names = re.findall(r"\b[A-Z][a-z]+\b", " ".join(passages))
    return max(names, key=names.count) if names else "a dog"


@pytest.mark.parametrize(
    ("reads", "named", "unnamed"),
    [
        (everything, [100, 100, 100], 0),
        (lambda passages: "a dog", [0, 0, 0], 100),
        (first_name, [100, 0, 0], 0),
    ],
)
def test_names_are_counted(photos, tiny, reads, named, unnamed):
    told = measure_pairs(Reader(reads, tiny.tokenizer), photos, photos, count=6)
    shares = {share.name: share.value for share in told.shares}
    assert [shares[name] for name in NAMED] == named
    assert shares[ELSEWHERE] == unnamed
    assert {share.count for share in told.shares} == {6}


def test_who_reads_the_same_photos_caption_gains(photos, tiny):
    told = measure_pairs(
        Reader(lambda passages: passages[0], tiny.tokenizer), photos, photos, count=8
    )
    assert told.alone < 200
    assert told.difference.interval.low > 100  # the photo itself is known here


def test_the_command_measures_answers_and_captions(tiny: Captioner, tmp_path: Path):
    config = replace(tiny.model.config, documents=DocumentsConfig(length=200, most=9))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionLanguageModel(config)
    save_checkpoint(tmp_path / "model", model, tiny.tokenizer)
    for split in ("train", "val"):
        folder = tmp_path / "photos" / split
        folder.mkdir(parents=True)
        rows = []
        for number in range(3):
            noise = Image.effect_noise((64, 64), 40 + 20 * number).convert("RGB")
            noise.save(folder / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "text": f"a brown dog number {number}"})
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = [str(tmp_path / "model"), "--data", str(tmp_path / "photos")]
    arguments += ["--format", "imagefolder", "--questions", "2", "--json"]
    answers = CliRunner().invoke(app, arguments)
    assert answers.exit_code == 0, answers.output
    told = json.loads(answers.stdout)
    assert told["shares"][0]["count"] == 2
    unfitted = CliRunner().invoke(app, [*arguments, "--fit"])
    assert unfitted.exit_code == 2
    assert "fit it with vlm calibrate before" in unfitted.stderr
    verdict = VerdictConfig(-1e6, 2.0, 0.0, 2.0, 0.0)
    store(tmp_path / "model", CalibrationConfig(), verdict, torch.ones(32))
    fitted = CliRunner().invoke(app, [*arguments, "--fit"])
    assert fitted.exit_code == 0, fitted.output
    stored = json.loads((tmp_path / "model" / "config.json").read_text())["verdict"]
    assert stored["sure_answer"] == 2.0
    assert stored["guess_documents"] <= stored["sure_documents"]
    captions = CliRunner().invoke(app, [*arguments, "--captions"])
    assert captions.exit_code == 0, captions.output
    assert len(json.loads(captions.stdout)["shares"]) == len(NAMED) + 1


@pytest.mark.parametrize("arguments", [["--fit"], ["gone", "--fit"]])
def test_a_fit_needs_a_folder_to_store_it_in(tmp_path: Path, arguments: list[str]):
    result = CliRunner().invoke(app, [*arguments, "--data", str(tmp_path)])
    assert result.exit_code == 2
    assert "--fit stores what it finds in a checkpoint folder" in result.stderr


def test_too_few_photos_are_told(photos, tiny):
    with pytest.raises(DataError, match="1 photos have captions"):
        measure_pairs(Reader(everything, tiny.tokenizer), photos[:1], photos, count=6)


def test_a_model_without_the_layers_is_one_sentence(tiny_checkpoint: Path, tmp_path: Path):
    result = CliRunner().invoke(app, [str(tiny_checkpoint), "--data", str(tmp_path)])
    assert (result.exit_code, result.stderr.strip()) == (2, f"error: {NO_DOCUMENTS}")
