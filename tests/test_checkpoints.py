"""A run's folder: whole at any moment, of one recipe only, and clear when the disk is full."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from small_runs import small_recipe

from training.data.atomic import replace_file
from training.loop.checkpoints import RunFolder, TrainingError
from vlm.weights.store import load_checkpoint

if TYPE_CHECKING:
    from vlm.captioner import Captioner


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.claim(small_recipe())
    return run


def test_the_newest_state_is_loaded_and_the_last_few_are_kept(folder: RunFolder) -> None:
    assert folder.load() is None
    for step in (2, 4, 10):
        folder.save(step, {"weights": torch.full((3,), step)}, keep=2)
    state = folder.load()
    assert state is not None
    assert state["weights"].tolist() == [10, 10, 10]
    names = [path.name for path in sorted(folder.checkpoints.iterdir())]
    assert names == ["step-00000004.pt", "step-00000010.pt"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def crash(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, crash)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    replace_file(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_what_a_kill_leaves_half_written_is_not_a_state(folder: RunFolder) -> None:
    folder.save(2, {"step": 2}, keep=2)
    (folder.checkpoints / "step-00000004.pt.tmp").write_bytes(b"half")
    assert folder.load() == {"step": 2}


def test_a_full_disk_is_a_clear_error_and_the_last_good_state_survives(folder: RunFolder) -> None:
    folder.save(2, {"weights": torch.ones(3)}, keep=1)
    # The device that is always full stands in for the file that is being written.
    (folder.checkpoints / "step-00000004.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"No space left.*last good one is .*step-00000002.pt"):
        folder.save(4, {"weights": torch.ones(100_000)}, keep=1)
    state = folder.load()
    assert state is not None
    assert state["weights"].tolist() == [1, 1, 1]
    folder.save(4, {"weights": torch.zeros(3)}, keep=1)  # once there is room again


def test_a_full_disk_leaves_the_published_model_whole(folder: RunFolder, tiny: Captioner) -> None:
    folder.publish(tiny.model, tiny.tokenizer)
    (folder.path / "model.tmp").mkdir()
    (folder.path / "model.tmp" / "config.json").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match="No space left"):
        folder.publish(tiny.model, tiny.tokenizer)
    load_checkpoint(folder.model)


def test_the_published_model_is_a_checkpoint_folder(folder: RunFolder, tiny: Captioner) -> None:
    folder.publish(tiny.model, tiny.tokenizer)
    better = copy.deepcopy(tiny.model)
    torch.nn.init.ones_(better.adapter.project.weight)
    folder.publish(better, tiny.tokenizer)
    model, tokenizer = load_checkpoint(folder.model)
    assert (model.adapter.project.weight == 1).all()
    assert tokenizer.encode("a dog") == tiny.tokenizer.encode("a dog")


def test_a_damaged_state_is_named(folder: RunFolder) -> None:
    folder.save(2, {"step": 2}, keep=2)
    (folder.checkpoints / "step-00000004.pt").write_bytes(b"garbage")
    with pytest.raises(TrainingError, match=r"step-00000004.pt is damaged.*delete it"):
        folder.load()


def test_a_run_of_another_recipe_is_refused_by_the_key_that_differs(folder: RunFolder) -> None:
    folder.claim(small_recipe())
    with pytest.raises(TrainingError, match="another recipe: epochs was 3 and is now 4;"):
        folder.claim(small_recipe(epochs=4))
    with pytest.raises(TrainingError, match=r"sources\[0\].path was .*\(and 1 more\)"):
        folder.claim(small_recipe("elsewhere", seed=3))


def test_what_must_not_change_is_held(folder: RunFolder) -> None:
    folder.hold("data", "abc")
    folder.hold("encoder", "def")
    folder.hold("data", "abc")
    with pytest.raises(TrainingError, match=r"the data of the run in .* changed since it began"):
        folder.hold("data", "xyz")
    (folder.path / "run.json").write_text("")
    with pytest.raises(TrainingError, match=r"run\.json is damaged"):
        folder.hold("data", "abc")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(TrainingError, match="is not empty and holds no run"):
        RunFolder(tmp_path).claim(small_recipe())
    (tmp_path / "letter.txt").unlink()
    (tmp_path / "recipe.yaml.tmp").write_text("of a start that was killed")
    RunFolder(tmp_path).claim(small_recipe())
