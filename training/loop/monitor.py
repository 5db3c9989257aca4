"""What a run shows while it goes on, and what it leaves: a log, every step's figures, TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

# Without a terminal, and so without a bar, a line is printed after this many steps.
LINE_EVERY = 50


class Monitor:
    """A bar on a terminal, else plain lines; `log.txt`, `metrics.jsonl` and TensorBoard's events in the run's folder.

    `metrics.jsonl` has one object a line: a step's figures, or with the key `dev` those of a validation. A run that
    goes on from `step` forgets what was written after it. In all but the main process (`active` False) it is mute.
    """

    def __init__(self, folder: Path, step: int, steps: int, active: bool = True) -> None:
        self.active = active
        self.console = Console(quiet=not active)
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} images/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (active and self.console.is_terminal),
        )
        fields: dict[str, Any] = {"epoch": 0, "loss": float("nan"), "speed": 0.0}
        self.task = self.bar.add_task("", total=steps, completed=step, **fields)
        self.steps = steps
        self.folder = folder
        if active:
            path = folder / "metrics.jsonl"
            _forget(path, step)
            self.file = path.open("a", encoding="utf-8")
            self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Monitor:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.active:
            self.file.close()
            self.tensorboard.close()

    def say(self, text: str) -> None:
        """Print a sentence, and put it into the log."""
        if self.active:
            log(self.folder, text)
            self.console.print(text, markup=False, highlight=False)

    def step(self, figures: Mapping[str, float]) -> None:
        """Note a step: `step`, `epoch`, `loss`, `images_per_second` and any other figures."""
        if not self.active:
            return
        self._write(figures)
        step = int(figures["step"])
        for name, value in figures.items():
            if name not in ("step", "epoch"):
                self.tensorboard.add_scalar(f"train/{name}", value, step)
        epoch, loss, speed = (figures[name] for name in ("epoch", "loss", "images_per_second"))
        self.bar.update(self.task, completed=step, epoch=epoch, loss=loss, speed=speed)
        if self.bar.disable and step % LINE_EVERY == 0:
            line = (
                f"epoch {epoch}, step {step} of {self.steps}: loss {loss:.3f}, {speed:.0f} images/s"
            )
            self.console.print(line, markup=False, highlight=False)

    def validation(
        self,
        step: int,
        epoch: int,
        scores: Mapping[str, float],
        missing: Mapping[str, str],
        better: bool,
    ) -> None:
        """Note the scores on dev after an epoch, and in words why a score is `missing`."""
        if not self.active:
            return
        self._write({"step": step, "epoch": epoch, "dev": dict(scores)})
        for name, value in scores.items():
            self.tensorboard.add_scalar(f"dev/{name}", value, step)
        figures = [f"{name} {value:.4g}" for name, value in scores.items()]
        told = ", ".join(figures + [f"{name} {reason}" for name, reason in missing.items()])
        self.say(f"epoch {epoch}, step {step}: dev {told}{' (best so far)' if better else ''}")

    def samples(self, step: int, sheets: Sequence[Image.Image]) -> None:
        """Show captions of dev images with their word maps."""
        for number, sheet in enumerate(sheets):
            picture = np.asarray(sheet.convert("RGB"))
            self.tensorboard.add_image(f"samples/{number}", picture, step, dataformats="HWC")

    def _write(self, figures: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(figures) + "\n")
        self.file.flush()


def log(folder: Path, text: str) -> None:
    """Append a text to the run's log, with the time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a `metrics.jsonl`; the last one may have been cut short."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _forget(path: Path, step: int) -> None:
    kept = [figures for figures in read_metrics(path) if figures["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(figures) + "\n" for figures in kept))
    temporary.replace(path)
