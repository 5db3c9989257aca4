"""Conversions are kept for the next time, and removed when nothing asks for them or there are too many."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_weights_convert import blip as blip_folder  # noqa: F401

from vlm.weights import CheckpointError, conversions
from vlm.weights.conversions import MARK, as_ours
from vlm.weights.store import load_checkpoint


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlm" / "converted"


@pytest.fixture
def sources(tmp_path, request) -> list[Path]:
    """Three foreign checkpoints."""
    blip = request.getfixturevalue("blip_folder")
    return [Path(shutil.copytree(blip, tmp_path / name)) for name in ("one", "two", "three")]


def use(source: Path, ago: float = 0) -> Path:
    """Load a checkpoint's conversion, and let that be some time ago."""
    with as_ours(source) as folder:
        load_checkpoint(folder)
    moment = time.time() - ago
    os.utime(folder / MARK, (moment, moment))
    return folder


def change(source: Path) -> None:
    (source / "README.md").write_text("changed")


def test_one_of_ours_is_itself(tiny_checkpoint, cache):
    with as_ours(tiny_checkpoint) as folder:
        assert folder == tiny_checkpoint
    assert not cache.exists()


def test_the_same_conversion_is_found_again(sources, cache):
    assert use(sources[0], ago=100) == use(sources[0])
    assert len(list(cache.iterdir())) == 1


def test_what_is_changed_or_gone_or_of_another_release_is_removed(
    sources, cache, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG, logger="vlm.weights.conversions")
    old = [use(source) for source in sources]
    change(sources[0])
    shutil.rmtree(sources[1])
    new = use(sources[0])
    assert set(cache.iterdir()) == {new, old[2]}
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert (
        f"removed the conversion {old[0]}: {sources[0]} or this release has changed" in caplog.text
    )
    assert f"removed the conversion {old[1]}: {sources[1]} is gone" in caplog.text
    monkeypatch.setattr(conversions, "__version__", "another")
    assert use(sources[2]) not in (new, old[2])
    assert len(list(cache.iterdir())) == 1


def test_the_least_recently_used_are_removed_beyond_the_limit(sources, cache, monkeypatch):
    old = [use(source, ago) for source, ago in zip(sources, (100, 300, 200))]
    size = sum(file.stat().st_size for file in old[0].iterdir())
    monkeypatch.setattr(conversions, "LIMIT", 2.5 * size)
    fourth = Path(shutil.copytree(sources[0], sources[0].with_name("four")))
    new = use(fourth)
    assert set(cache.iterdir()) == {old[0], new}
    monkeypatch.setattr(conversions, "LIMIT", 0)
    change(fourth)
    newest = use(fourth)
    assert list(cache.iterdir()) == [newest]


def test_one_that_is_being_read_stays(sources, cache):
    """By this process or another; it is removed at the next occasion."""
    script = "import sys; from pathlib import Path; from vlm.weights.conversions import as_ours\n"
    script += "with as_ours(Path(sys.argv[1])) as folder: print(folder, flush=True), input()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(sources[0])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        theirs = Path(other.stdout.readline().strip())
        with as_ours(sources[1]) as ours:
            change(sources[0])
            change(sources[1])
            third = use(sources[2])
            assert set(cache.iterdir()) == {theirs, ours, third}
            load_checkpoint(theirs)
    finally:
        other.communicate("\n")
    change(sources[2])
    newest = use(sources[2])
    assert list(cache.iterdir()) == [newest]


def test_parts_that_a_stopped_run_left_are_removed_after_a_day(sources, cache):
    use(sources[0])
    for name, hours in (("tmp-new", 1), ("tmp-old", 30)):
        (cache / name / "part").mkdir(parents=True)
        moment = time.time() - hours * 3600
        os.utime(cache / name, (moment, moment))
    (cache / "damaged").mkdir()
    (cache / "damaged" / MARK).write_text("[]")
    os.utime(cache / "damaged" / MARK, (0, 0))
    use(sources[1])
    assert (cache / "tmp-new").is_dir()
    assert not (cache / "tmp-old").exists()
    assert not (cache / "damaged").exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(sources, cache):
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file in its place")
    with pytest.raises(CheckpointError, match="set XDG_CACHE_HOME") as caught, as_ours(sources[0]):
        pass
    assert str(cache) in str(caught.value)


def test_a_disk_that_is_full_is_one_sentence(sources, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlm.weights.convert.save_checkpoint", full)
    with pytest.raises(CheckpointError, match="No space left on device"), as_ours(sources[0]):
        pass
    assert list(cache.iterdir()) == []


def test_the_mark_says_what_was_converted(sources, cache):
    values = json.loads((use(sources[0]) / MARK).read_text())
    assert values["source"] == str(sources[0])
