from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.evaluate import app
from vlm.loading import load

REPOSITORY = Path(__file__).resolve().parent.parent
FIXTURES = Path(__file__).parent / "fixtures"
QUESTIONS = FIXTURES / "vqa_v2" / "v2_OpenEnded_mscoco_train2014_questions.json"
ANNOTATIONS = FIXTURES / "vqa_v2" / "v2_mscoco_train2014_annotations.json"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "n"),
    [
        (["--data", FIXTURES / "flickr8k", "--split", "train"], 2),
        (["--data", FIXTURES / "flickr8k"], 1),
        (["--data", FIXTURES / "coco", "--split", "val"], 2),
        (
            [
                *("--format", "coco", "--images", FIXTURES / "coco" / "val2014"),
                *("--data", FIXTURES / "coco" / "annotations" / "captions_val2014.json"),
            ],
            2,
        ),
        (["--data", FIXTURES / "kohya", "--split", "train", "--limit", 5], 5),
    ],
)
def test_captions_as_json(run, tiny_checkpoint, arguments, n):
    result = run(tiny_checkpoint, "--task", "caption", *arguments, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["task"], record["n"], record["model"]) == ("caption", n, str(tiny_checkpoint))
    assert record["seconds"] > 0
    if n == 1:
        assert record["ci95"] == {}
        assert record["missing"]["CIDEr"].startswith("needs two images")
        assert "CIDEr" not in record["metrics"]
        return
    for name in ("CIDEr", "BLEU-4", "CHAIR-s"):
        low, high = record["ci95"][name]
        assert 0 <= low <= record["metrics"][name] <= high


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_figures_are_shown_where_what_was_said_cannot_be_written(run, tiny_checkpoint):
    data = ("--data", FIXTURES / "kohya", "--split", "train")
    result = run(
        tiny_checkpoint, "--task", "caption", *data, "--json", "--predictions", "/dev/full"
    )
    assert result.exit_code == 2
    assert json.loads(result.stdout)["metrics"]["CIDEr"] >= 0
    assert "No space left" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "n"),
    [
        (["--data", FIXTURES / "vqa_v2", "--split", "train"], 3),
        (["--questions", QUESTIONS, "--annotations", ANNOTATIONS], 3),
        (
            [
                *("--data", FIXTURES / "vqa_v2", "--format", "vqa_v2"),
                *("--questions", QUESTIONS, "--annotations", ANNOTATIONS, "--limit", 2),
            ],
            2,
        ),
        (["--data", FIXTURES / "daquar"], 1),
        (["--data", FIXTURES / "easy_vqa"], 2),
        (["--data", FIXTURES / "gqa", "--split", "train", "--option", "balanced=true"], 2),
    ],
)
def test_answers_as_json(run, tiny_checkpoint, arguments, n):
    result = run("--model", tiny_checkpoint, "--task", "vqa", *arguments, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["task"], record["n"]) == ("vqa", n)
    assert 0 <= record["metrics"]["accuracy"] <= 100
    for low, high in (record["ci95"][name] for name in record["ci95"] if name == "accuracy"):
        assert 0 <= low <= record["metrics"]["accuracy"] <= high <= 100


def test_what_the_model_says_is_what_is_scored(run, tiny_checkpoint, tmp_path):
    """The figure follows the model: data whose answers are the model's own scores 100, others 0."""
    model = load(tiny_checkpoint)
    source = tmp_path / "easy_vqa"
    shutil.copytree(FIXTURES / "easy_vqa", source)
    file = source / "test" / "questions.json"
    asked = json.loads(file.read_text())
    own = [
        [
            question,
            model.encode(source / "test" / "images" / f"{image}.png").ask(question).text,
            image,
        ]
        for question, _, image in asked
    ]
    assert all(answer for _, answer, _ in own)
    command = (tiny_checkpoint, "--task", "vqa", "--data", source, "--split", "test", "--json")
    for rows, accuracy in (
        (own, 100),
        ([[q, a if i < 3 else "zebra", image] for i, (q, a, image) in enumerate(own)], 75),
    ):
        file.write_text(json.dumps(rows))
        record = json.loads(run(*command).stdout)
        assert record["metrics"]["accuracy"] == accuracy


def test_two_models_are_compared(run, tiny_checkpoint, tmp_path):
    command = (tiny_checkpoint, tiny_checkpoint, "--task", "vqa", "--beams", 1)
    command = (*command, "--data", FIXTURES / "easy_vqa")
    out, plot = tmp_path / "out.jsonl", tmp_path / "plot.png"
    result = run(*command, "--split", "trainval", "--predictions", out, "--plot", plot, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert len(record["models"]) == 2
    assert record["difference"]["accuracy"]["value"] == 0
    assert not record["difference"]["accuracy"]["more_than_noise"]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * record["n"] == 40
    assert plot.exists()

    for split, sentence in (("trainval", "more than noise"), ("dev", "of one image there is no")):
        table = run(*command, "--split", split)
        assert table.exit_code == 0, table.output
        assert sentence in table.output


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("vqa", ["--data", FIXTURES / "vqa_v2", "--split", "test-dev"], [(1000, "question_id")]),
        (
            "vizwiz",
            ["--data", FIXTURES / "vizwiz", "--split", "test"],
            [("VizWiz_test_00000000.jpg", "image")],
        ),
    ],
)
def test_answers_that_are_secret_can_be_sent_to_their_server(
    run, tiny_checkpoint, tmp_path, name, arguments, rows
):
    out = tmp_path / "out.json"
    command = (tiny_checkpoint, "--task", "vqa", *arguments)
    refused = run(*command)
    assert refused.exit_code == 2
    assert "--server-format" in refused.stderr
    result = run(*command, "--predictions", out, "--server-format", name)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert [(row[key], key) for row, (_, key) in zip(written, rows, strict=True)] == rows
    assert all(row["answer"] for row in written)


def test_captions_that_are_secret_can_be_sent_to_their_server(run, tiny_checkpoint, tmp_path):
    """COCO's test images come with their names alone."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    shutil.copytree(FIXTURES / "coco" / "val2014", folder / "test2014")
    names = sorted(file.name for file in (folder / "test2014").iterdir())
    listed = [{"id": 70 + i, "file_name": name, "height": 1} for i, name in enumerate(names)]
    info = folder / "annotations" / "image_info_test2014.json"
    info.write_text(json.dumps({"info": {}, "images": listed, "categories": []}))
    out = tmp_path / "captions_test2014_vlm_results.json"
    command = (tiny_checkpoint, "--task", "caption", "--data", folder, "--split", "test")
    assert "--server-format" in run(*command).stderr
    result = run(*command, "--predictions", out, "--server-format", "coco")
    assert result.exit_code == 0, result.output
    assert "2 predictions are in" in result.stdout
    model = load(tiny_checkpoint)
    said = model.caption([folder / "test2014" / name for name in names])
    expected = [{"image_id": 70 + i, "caption": answer.text} for i, answer in enumerate(said)]
    assert json.loads(out.read_text()) == expected


def test_a_question_that_is_too_long_counts_as_wrong_and_is_named(run, tiny_checkpoint, tmp_path):
    """In tables, in JSON, and where the answers go to a server."""
    questions = ["what colour?", "why " * 500]
    rows = [
        {"image": "0.png", "question": q, "answer": ["red"], "question_id": i}
        for i, q in enumerate(questions)
    ]
    (tmp_path / "a_test.json").write_text(json.dumps(rows))
    data = ("--format", "blip", "--data", tmp_path / "a_test.json", "--split", "test")
    data = (*data, "--images", FIXTURES / "kohya" / "5_square", "--task", "vqa")
    result = run(tiny_checkpoint, *data)
    assert result.exit_code == 0, result.output
    assert "too long" in result.output
    record = json.loads(run(tiny_checkpoint, *data, "--json").stdout)
    assert record["n"] == 2
    assert "too long" in record["unread_questions"]["first"]
    out = tmp_path / "out.json"
    result = run(tiny_checkpoint, *data, "--server-format", "vqa", "--predictions", out)
    assert result.exit_code == 0, result.output
    assert "too long" in result.stderr
    assert [bool(row["answer"]) for row in json.loads(out.read_text())] == [True, False]


def test_the_last_model_may_be_blind(run, tiny_checkpoint, tmp_path):
    out = tmp_path / "out.jsonl"
    command = ("--task", "vqa", "--data", FIXTURES / "easy_vqa", "--split", "trainval", "--blind")
    command = (*command, "--beams", 1)
    result = run(tiny_checkpoint, tiny_checkpoint, *command, "--json", "--predictions", out)
    assert result.exit_code == 0, result.output
    assert [model.get("blind") for model in json.loads(result.stdout)["models"]] == [None, True]
    answers = {}
    for row in map(json.loads, out.read_text().splitlines()[20:]):
        answers.setdefault(row["question"], set()).add(row["answer"])
    assert [len(different) for different in answers.values()] == [1, 1]


def test_an_image_that_cannot_be_read_is_named_and_both_models_do_without(
    run, tiny_checkpoint, tmp_path
):
    source = tmp_path / "source"
    shutil.copytree(FIXTURES / "kohya" / "5_square", source / "train")
    for i in range(10, 25):
        shutil.copy(source / "train" / "0.png", source / "train" / f"{i}.png")
        shutil.copy(source / "train" / "0.txt", source / "train" / f"{i}.txt")
    (source / "train" / "3.png").write_bytes(b"no image")
    command = ("--task", "caption", "--data", source, "--split", "train", "--beams", 1, "--json")
    result = run(tiny_checkpoint, tiny_checkpoint, "--blind", *command)
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout)["n"] == 24
    assert "3.png" in result.stderr


@pytest.mark.parametrize("task", ["caption", "vqa"])
def test_figures_of_the_images_that_are_left_are_shown_however_few(
    run, tiny_checkpoint, tmp_path, task
):
    source = tmp_path / "easy_vqa"
    shutil.copytree(FIXTURES / "easy_vqa", source)
    data = ["--data", source, "--split", "trainval"]
    photos = source / "train" / "images"
    if task == "caption":
        photos = tmp_path / "photos"
        shutil.copytree(FIXTURES / "kohya" / "5_square", photos)
        data = ["--data", photos, "--split", "all"]
    first, *broken = sorted(photos.glob("*.png"))
    for file in broken:
        file.write_bytes(b"no image")
    result = run(tiny_checkpoint, "--task", task, *data, "--json")
    assert result.exit_code == 1, result.output
    assert 0 < json.loads(result.stdout)["n"] <= 2  # easy-VQA asks two questions of an image
    assert broken[0].name in result.stderr
    first.write_bytes(b"no image")
    result = run(tiny_checkpoint, "--task", task, *data, "--json")
    assert result.exit_code == 2, result.output
    assert "none of the images can be read; the first: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--task", "caption"], "--data"),
        (["--task", "caption", "--data", "missing"], "missing"),
        (["--task", "caption", "--data", FIXTURES / "flickr8k", "--split", "x"], "no split 'x'"),
        (["--task", "caption", "--data", FIXTURES / "daquar"], "no captions"),
        (["--task", "vqa", "--data", FIXTURES / "flickr8k"], "no questions"),
        (["--task", "vqa", "--data", FIXTURES / "vqa_v2", "--split", "test-dev"], "secret"),
        (["--task", "vqa", "--data", FIXTURES / "daquar", "--model", "no/such/model"], "no model"),
        (["--task", "vqa", "--data", FIXTURES / "daquar", "a", "b", "c"], "not 3"),
        (["--task", "vqa", "--data", FIXTURES / "daquar", "--annotations", "a"], "--questions"),
        (["--task", "vqa", "--data", FIXTURES / "daquar", "--meteor"], "--task caption"),
        (["--task", "caption", "--data", FIXTURES / "coco", "--plot", "a.png"], "--task vqa"),
        (["--task", "vqa", "--data", FIXTURES / "daquar", "--plot", "a.xyz"], "a.xyz"),
        (["--task", "caption", "--data", FIXTURES / "coco", "--format", "x"], "no format 'x'"),
        (["--task", "vqa", "--data", "x", "--server-format", "vqa"], "goes with --predictions"),
    ],
)
def test_bad_input_is_one_sentence(run, arguments, reason):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert reason in result.stderr
    assert "Traceback" not in result.output


def test_bad_options_of_the_search_and_the_output_are_one_sentence(run, tiny_checkpoint, tmp_path):
    command = (tiny_checkpoint, "--task", "caption", "--data", FIXTURES / "flickr8k")
    for arguments, reason in (
        (["--beams", 0], "beams"),
        (["--device", "gpu"], "there is no device 'gpu' here: give auto or one of cpu"),
        (["--device", "cuda:99"], "there is no device 'cuda:99' here"),
        (["--device", "cuda", "--openvino"], "OpenVINO runs models on the CPU"),
        (["--device", "cuda", "--precision", "int8"], "int8 is for models on x86 CPUs here"),
        (["--predictions", tmp_path / "missing" / "out.jsonl"], "No such file"),
    ):
        result = run(*command, *arguments)
        assert result.exit_code == 2, result.output
        assert reason in result.stderr


def test_meteor_needs_java(run, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = run("--task", "caption", "--data", FIXTURES / "flickr8k", "--meteor")
    assert result.exit_code == 2
    assert "Java" in result.stderr


def test_wups_is_left_out_without_wordnet_and_this_is_said(run, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("training.evaluation.metrics.wups.PLACES", [])
    result = run(tiny_checkpoint, "--task", "vqa", "--data", FIXTURES / "daquar", "--json")
    assert result.exit_code == 0, result.output
    assert not any(name.startswith("WUPS") for name in json.loads(result.stdout)["metrics"])
    assert "WordNet" in result.stderr


def test_the_command_is_known_without_loading_what_it_needs():
    code = "import sys, training.evaluate; assert not {'torch', 'numpy', 'rich.table'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
