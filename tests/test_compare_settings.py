"""Trials of settings: one that is told to be worse is found worse, and an equal one is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import draw_photos
from typer.testing import CliRunner

from training.compare_settings import app
from training.data.records import ImageRef, Record
from training.data.report import Report
from training.evaluation import trial
from training.evaluation.assumptions import Assumptions
from training.evaluation.trial import Cost, Measured, Side, run_trial
from training.evaluation.trial_tables import sentences
from vlm.cli import app as vlm

PHOTOS = 16
TRAIN = 14  # of them in the split that is tried
QUESTION = "what colour is the shape?"


@pytest.fixture(scope="module")
def photos(tiny, tmp_path_factory) -> Path:
    """Photos whose right captions are the tiny model's own, by three beams."""
    folder = draw_photos(tmp_path_factory.mktemp("photos"), PHOTOS)
    for path in sorted(folder.glob("*.png")):
        path.with_suffix(".txt").write_text(tiny.encode(path).caption().text)
    return folder


@pytest.fixture
def write(tmp_path, tiny_checkpoint):
    def one(name: str, **settings: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps({"model": str(tiny_checkpoint), **settings}))
        return path

    return one


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tried(photos: Path, *arguments: object) -> dict[str, Any]:
    data = ("--data", photos, "--format", "kohya", "--split", "train", "--json")
    result = run(*arguments, *data)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_what_is_told_to_be_worse_is_found_worse_and_the_other_way_better(photos, write):
    good, bad = write("a.json"), write("b.json", max_tokens=2)
    found = tried(photos, good, bad)
    assert (found["verdict"], found["main"], found["n"]) == ("worse", "CIDEr", TRAIN)
    assert found["changed"] == {"max_tokens": [32, 2]}
    figure = found["figures"]["CIDEr"]["difference"]
    assert figure["ci95"][0] <= figure["value"] <= figure["ci95"][1] < 0
    back = tried(photos, bad, good)
    assert back["verdict"] == "better"
    assert back["figures"]["CIDEr"]["difference"]["value"] == pytest.approx(-figure["value"])


def test_equal_models_are_not_told_apart(photos, write, tiny_checkpoint, tmp_path):
    copied = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    found = tried(photos, write("a.json"), write("b.json", model=str(copied)))
    assert found["verdict"] == "no different"
    assert found["figures"]["CIDEr"]["difference"]["value"] == 0
    assert all(ms > 0 for ms in found["figures"]["ms"]["values"])


def test_what_changes_both_ways_alike_is_no_difference(tiny, photos):
    """Half of the answers are right by one setting, and half by the other."""
    paths = sorted(photos.glob("*.png"))
    short, long = (
        [tiny.encode(path).ask(QUESTION, max_tokens=n).text for path in paths] for n in (1, 12)
    )
    pairs = zip(paths, short, long)
    records = [
        Record(ImageRef(str(path)), (a if number % 2 else b,), QUESTION)
        for number, (path, a, b) in enumerate(pairs)
    ]
    sides = (
        Side(Assumptions(search={"max_tokens": 1}), tiny),
        Side(Assumptions(search={"max_tokens": 12}), tiny),
    )
    found = run_trial(sides, "vqa", {"max_tokens": (1, 12)}, records, Report())
    assert found.verdict == "no different"
    right = [Record(r.image, (text,), QUESTION) for r, text in zip(records, long)]
    assert run_trial(sides, "vqa", {}, right, Report()).verdict == "better"


def test_a_method_that_is_told_to_be_worse_is_found_worse(tiny, photos, monkeypatch):
    def planted(name: str) -> trial.Explainer:
        """Maps of the photo's shape, and with "value" of all but it."""

        def explain(image: Any, ids: Any, question: str | None = None) -> list[np.ndarray]:
            grid = image.memory.image.grid
            grey = np.asarray(image.photo.seen.convert("L").resize(grid[::-1]), dtype=float)
            shape = 255 - grey if name == "occlusion" else grey
            return [shape] * len(tiny.tokenizer.words(ids))

        return explain

    monkeypatch.setattr(trial, "by_method", planted)
    monkeypatch.setattr(trial, "curves", _counting_the_shape)
    records = [Record(ImageRef(str(path)), ("a dog",)) for path in sorted(photos.glob("*.png"))]
    sides = tuple(Side(Assumptions(method=name), tiny) for name in ("occlusion", "value"))
    found = run_trial(sides, "maps", {"method": ("occlusion", "value")}, records, Report())
    assert (found.verdict, found.n) == ("worse", PHOTOS)
    assert sentences(found, ("a", "b"))[0].startswith("b is worse than a by insertion")


def _counting_the_shape(captioner, examples, explainers, fill, report):
    """Insertion for a model that knows its word by the shape: what share of the map lies on it."""
    ((name, explain),) = explainers.items()
    found = trial.Curves()
    for number, example in enumerate(examples):
        image = captioner.encode(example.image.path)
        (weights, *_) = explain(image, (300, 301), None)
        grey = np.asarray(image.photo.seen.convert("L").resize(weights.shape[::-1]))
        share = weights[grey < 200].sum() / weights.sum()
        found.insertion.append(float(share))
        found.deletion.append(-float(share))
        found.lost.append(2.0)
        found.photos.append(number)
    return {name: found}


def test_methods_are_tried_on_photos(photos, write):
    found = tried(
        photos, write("a.json", method="attention"), write("b.json", method="value"), "--limit", 3
    )
    assert (found["judged"], found["main"], found["n"]) == ("maps", "insertion", 3)
    assert set(found["figures"]) == {"insertion", "deletion", "ms"}


def test_cost_is_the_mean_of_an_item_and_is_paired():
    random = np.random.default_rng(0)
    first, second, dearer = Cost(), Cost(), Cost()
    for _ in range(30):
        busy = float(random.uniform(1, 5))  # the machine's, for both alike
        first.add(80 * busy, 8)
        second.add(80 * busy + float(random.normal()), 8)
        dearer.add(90 * busy, 8)
    assert not Measured.of(first.metric(), second.metric()).difference.more_than_noise
    found = Measured.of(first.metric(), dearer.metric())
    assert found.difference.more_than_noise
    assert found.values[1] / found.values[0] == pytest.approx(9 / 8)


def test_one_thing_at_a_time(photos, write):
    a, b = write("a.json"), write("b.json", beams=1, max_tokens=3)
    data = ("--data", photos, "--format", "kohya", "--split", "train")
    result = run(a, b, *data)
    assert result.exit_code == 2
    assert "differ in 2 things: beams (3 and 1), max_tokens (32 and 3)" in result.stderr
    told = run(a, b, *data, "--several", "--limit", 2)
    assert told.exit_code == 0, told.output
    assert "beams: 3 in a.json, 1 in b.json" in told.stdout
    # A default that is written out is no difference.
    same = run(a, write("c.json", beams=3, candidates=1), *data)
    assert same.exit_code == 2
    assert "say the same" in same.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[1]", "must hold an object"),
        ('{"beam": 1}', "there is no setting 'beam'"),
        ('{"beams": "3"}', "beams must be a whole number"),
        ('{"beams": 2, "sample": true}', "do not go together"),
        ('{"precision": "float64"}', "precision must be one of"),
        ('{"method": "magic"}', "method must be one of"),
        ('{"search": {"beams": 1}}', "there is no setting 'search'"),
        ('{"model": 7}', "model must be text"),
    ],
)
def test_a_settings_file_that_is_wrong_is_named(photos, write, tmp_path, text, said):
    wrong = tmp_path / "wrong.json"
    wrong.write_text(text)
    result = run(write("a.json"), wrong, "--data", photos, "--format", "kohya", "--split", "train")
    assert result.exit_code == 2
    assert said in result.stderr
    assert "wrong.json" in result.stderr


def test_a_photo_that_cannot_be_read_is_left_out_of_both(photos, write, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "copy")
    (folder / "000.png").write_bytes(b"no image")
    data = ("--data", folder, "--format", "kohya", "--split", "train", "--json")
    result = run(write("a.json"), write("b.json", beams=1), *data)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["n"] == TRAIN - 1
    assert result.stderr.count("000.png") == 1


def test_vlm_try_is_the_same(write):
    result = CliRunner().invoke(vlm, ["try", str(write("a.json")), str(write("b.json"))])
    assert result.exit_code == 2
    assert "--data" in result.stderr
