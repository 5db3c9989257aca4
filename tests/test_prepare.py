from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.data.readers import read
from training.prepare import app

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


def test_shards_are_written_and_read_back(run, tmp_path):
    result = run("shards", FIXTURES / "kohya", tmp_path, "--split", "all", "--images-per-shard", 4)
    assert result.exit_code == 0, result.output
    assert "10 records in 3 shards" in result.output
    before = {record.texts for record in read(FIXTURES / "kohya", split="all")}
    assert {record.texts for record in read(tmp_path, split="all")} == before


def test_shards_with_questions_are_marked_synthetic(run, tmp_path):
    source = tmp_path / "source"
    for split in ("train", "test"):
        (source / split).mkdir(parents=True)
    picture = (FIXTURES / "kohya" / "5_square" / "0.png").read_bytes()
    for name, animal in (("a", "dog"), ("b", "cat")):
        (source / "train" / f"{name}.png").write_bytes(picture + name.encode())
        (source / "train" / f"{name}.txt").write_text(f"a {animal} .\nthe {animal} .\n")
    result = run("shards", source, tmp_path / "out", "--questions")
    assert result.exit_code == 0, result.output
    records = list(read(tmp_path / "out"))
    made = {record.question: record.texts for record in records if record.synthetic}
    assert len([record for record in records if not record.synthetic]) == 2
    assert "What animal is in the picture?" in made


def test_reader_options_reach_the_reader(run, tmp_path):
    graphs = FIXTURES / "gqa" / "train_sceneGraphs.json"
    result = run("shards", FIXTURES / "gqa", tmp_path, "--option", f"scene_graphs={graphs}")
    assert result.exit_code == 0, result.output
    assert any(record.boxes for record in read(tmp_path))
    result = run("shards", FIXTURES / "karpathy", tmp_path / "k", "--option", "restval=false")
    assert "1 records in 1 shards" in result.output


def test_broken_images_are_named_and_too_many_stop(run, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(10):
        data = (FIXTURES / "kohya" / "5_square" / f"{i}.png").read_bytes()
        (source / f"{i}.png").write_bytes(data[:50] if i == 4 else data)
        (source / f"{i}.txt").write_text("a square")
    result = run("shards", source, tmp_path / "out", "--split", "all", "--broken", 0.2)
    assert result.exit_code == 0, result.output
    assert "9 good, 1 skipped" in result.output
    # A long path is broken over lines.
    assert "4.png" in result.output.replace("\n", "")
    result = run("shards", source, tmp_path / "none", "--split", "all")
    assert result.exit_code == 2
    assert not list((tmp_path / "none").iterdir())
    assert "1 of 10 entries are broken" in result.output


def test_stats_show_sizes_answers_and_what_splits_share(run, tmp_path):
    plot = tmp_path / "plot.png"
    source = FIXTURES / "easy_vqa"
    result = run("stats", source, "--split", "train", "--split", "test", "--plot", plot)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.replace("│", " ").splitlines()]
    assert ["records", "18", "4"] in rows
    assert ["no", "50.0", "50.0"] in rows
    # the fixture's two test pictures are two of its train pictures
    assert any(row[:5] == ["train,", "test", "2", "0", "2"] for row in rows)
    assert plot.exists()


def test_files_of_a_split_are_listed_once_a_line(run, tmp_path):
    result = run("files", FIXTURES / "kohya")
    assert result.output.splitlines() == [str(FIXTURES / "kohya" / "5_square" / "9.png")]
    listed = run("files", FIXTURES / "easy_vqa", "--split", "train").output.splitlines()
    assert len(listed) == len(set(listed)) == 9  # each has two questions
    assert all(Path(file).is_file() for file in listed)
    run("shards", FIXTURES / "kohya", tmp_path)
    result = run("files", tmp_path, "--split", "train")
    assert result.exit_code == 2
    assert "are not files of their own" in " ".join(result.output.split())


@pytest.mark.parametrize("command", [("stats",), ("files",), ("shards",)])
def test_bad_input_is_one_sentence(run, tmp_path, command):
    out = [tmp_path / "out"] if command == ("shards",) else []
    for arguments in (
        [tmp_path / "missing", *out],
        [FIXTURES / "flickr8k", *out, "--split", "holdout"],
        [FIXTURES / "flickr8k", *out, "--format", "flickr"],
        [FIXTURES / "flickr8k", *out, "--option", "restval"],
        [FIXTURES / "flickr8k", *out, "--option", "restval=true"],
    ):
        result = run(*command, *arguments)
        assert result.exit_code == 2
        assert "error: " in result.output
        assert "Traceback" not in result.output
