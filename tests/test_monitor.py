"""What a run leaves: every step's figures, whole lines only, and nothing from beyond the point it goes on from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.loop.monitor import LINE_EVERY, Monitor, read_metrics


def figures(step: int, **more: float) -> dict[str, Any]:
    return {"step": step, "epoch": 0, "loss": 1 / step, "images_per_second": 20.0, **more}


def test_figures_are_written_a_line_a_step_and_to_tensorboard(tmp_path: Path) -> None:
    with Monitor(tmp_path, step=0, steps=3) as monitor:
        for step in (1, 2, 3):
            monitor.step(figures(step, gradient_norm=2.0))
        scores, missing = {"loss": 0.5, "accuracy": 44.0}, {"CIDEr": "needs two images"}
        monitor.validation(3, 1, scores, missing, better=True)
        monitor.samples(3, [Image.new("RGB", (20, 10))])
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3, 3]
    assert metrics[3]["dev"] == {"loss": 0.5, "accuracy": 44.0}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx([1, 1 / 2, 1 / 3])
    assert events.Scalars("dev/accuracy")[0].value == 44
    assert events.Images("samples/0")[0].width == 20
    text = (tmp_path / "log.txt").read_text()
    assert "dev loss 0.5, accuracy 44, CIDEr needs two images (best so far)" in text


def test_a_run_that_goes_on_forgets_what_came_after(tmp_path: Path) -> None:
    with Monitor(tmp_path, step=0, steps=9) as monitor:
        for step in range(1, 6):
            monitor.step(figures(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while it wrote
    assert [m["step"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    # Files of one second are read in the order of their numbers as texts, 10 before 9; a run goes on in a later one.
    time.sleep(1)
    with Monitor(tmp_path, step=3, steps=9) as monitor:
        monitor.step(figures(4, again=1.0))
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    assert "again" in metrics[-1]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_without_a_terminal_a_line_is_printed_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitor(tmp_path, step=0, steps=2 * LINE_EVERY) as monitor:
        for step in range(1, 2 * LINE_EVERY + 1):
            monitor.step(figures(step))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0] == f"epoch 0, step {LINE_EVERY} of {2 * LINE_EVERY}: loss 0.020, 20 images/s"


def test_all_processes_but_one_are_mute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor(tmp_path / "other", step=0, steps=1, active=False) as monitor:
        monitor.step(figures(1))
        monitor.validation(1, 1, {"loss": 1.0}, {}, better=False)
        monitor.say("hello")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "other").exists()
