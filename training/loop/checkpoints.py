"""A run's folder: what it is a run of, its state at some steps, and the best model so far."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from vlm.errors import UserError
from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer
from vlm.weights.store import save_checkpoint

from ..data.atomic import replace_file
from ..recipe.recipe import Recipe, plain


class TrainingError(UserError):
    """A run that cannot start or go on; the message says why and what to do."""


class RunFolder:
    """`recipe.yaml`, `run.json` (marks of what must not change), `checkpoints/` and `model/`, the best so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"

    def claim(self, recipe: Recipe) -> None:
        """Make the folder this recipe's, or see that it is.

        Raises TrainingError when the folder holds a run of another recipe, or something else.
        """
        path = self.path / "recipe.yaml"
        if path.exists():
            changes = _differences(yaml.safe_load(path.read_text()), plain(recipe))
            if changes:
                more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
                raise TrainingError(
                    f"{self.path} holds a run of another recipe: {changes[0]}{more}; name another folder with "
                    "--out, or delete this one"
                )
        elif self.path.exists() and any(f.suffix != ".tmp" for f in self.path.iterdir()):
            raise TrainingError(f"{self.path} is not empty and holds no run; name another folder")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda file: file.write(recipe.to_yaml().encode()))
        self.checkpoints.mkdir(exist_ok=True)
        self.model.mkdir(exist_ok=True)

    def hold(self, what: str, mark: str) -> None:
        """Note the mark of something that a run must not change, or see that it is the one noted.

        Raises TrainingError when it is not.
        """
        path = self.path / "run.json"
        try:
            marks = json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            raise TrainingError(
                f"{path} is damaged; delete it if recipe and data are as they were when the run began"
            ) from None
        if marks.setdefault(what, mark) != mark:
            raise TrainingError(
                f"the {what} of the run in {self.path} changed since it began, so it cannot go on; restore it, or "
                "start a new run with another --out"
            )
        replace_file(path, lambda file: file.write(json.dumps(marks).encode()))

    def save(self, step: int, state: dict[str, Any], keep: int) -> None:
        """Write the state of a step and delete all but the last `keep`. Raises TrainingError, e.g. for a full disk."""
        path = self.checkpoints / f"step-{step:08d}.pt"
        try:
            replace_file(path, lambda file: torch.save(state, file))
        except OSError as error:
            raise TrainingError(self._unwritten(path, error)) from error
        for old in self._saved()[:-keep]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest state, or None for a run that has none. Raises TrainingError when it is damaged."""
        saved = self._saved()
        if not saved:
            return None
        try:
            return torch.load(saved[-1], map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            raise TrainingError(
                f"{saved[-1]} is damaged; delete it, and the run goes on from the one before it"
            ) from None

    def publish(self, model: VisionLanguageModel, tokenizer: Tokenizer) -> None:
        """Make `model` the one in `model/`, a checkpoint folder that is whole at any moment."""
        temporary = self.path / "model.tmp"
        try:
            save_checkpoint(temporary, model, tokenizer)
            for file in sorted(temporary.iterdir()):
                file.replace(self.model / file.name)
            temporary.rmdir()
        except (OSError, SafetensorError) as error:
            raise TrainingError(self._unwritten(self.model, error)) from error

    def _saved(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*.pt"))

    def _unwritten(self, path: Path, error: Exception) -> str:
        saved = self._saved()
        last = f"the last good one is {saved[-1]}" if saved else "there is none yet"
        return (
            f"{path} could not be written ({error}); {last}. Make room and run the same command again: "
            "the run goes on from there"
        )


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Sentences on the keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        prefix = f"{where}." if where else ""
        keys = {**old, **new}
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{prefix}{k}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new))
        return [d for i, (o, n) in pairs for d in _differences(o, n, f"{where}[{i}]")]
    return [] if old == new else [f"{where} was {old!r} and is now {new!r}"]
