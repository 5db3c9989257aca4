"""Checkpoint folders: `model.safetensors`, `config.json`, `tokenizer.json`, and maybe a model card."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm.model.config import ModelConfig
from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer
from vlm.weights import CheckpointError
from vlm.weights.families import read_json, recognise
from vlm.weights.tables import Weights, check_finite, some, unwrapped


def save_checkpoint(
    folder: str | Path,
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint folder; floating-point weights are stored as `dtype`, where that holds their values."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: _stored(tensor, dtype).contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
    tokenizer.save(folder / "tokenizer.json")


def load_checkpoint(folder: str | Path) -> tuple[VisionLanguageModel, Tokenizer]:
    """Read a checkpoint folder; the model is in eval mode and float32.

    Every key must be in its place, and every weight finite. Raises CheckpointError when a file is missing, truncated or
    foreign.
    """
    folder = Path(folder)
    family = recognise(folder)
    if family is not None:
        raise CheckpointError(
            f"{folder} is a checkpoint of the family {family.name}: vlm convert {folder} OUT makes one of ours of it"
        )
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a checkpoint folder: it has no {name}")
    try:
        config = ModelConfig.from_dict(read_json(folder, "config.json"))
        tokenizer = Tokenizer.load(folder / "tokenizer.json", config.text)
        with torch.random.fork_rng(devices=[]):  # new layers draw weights, which the file's replace
            model = VisionLanguageModel(config, initialise=False)
    except CheckpointError:
        raise
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {error}") from None
    if tokenizer.vocab_size > config.decoder.vocab_size:
        raise CheckpointError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, but config.json gives the decoder a "
            f"vocab_size of {config.decoder.vocab_size}; they belong to different models"
        )
    try:
        weights = unwrapped(load_file(folder / "model.safetensors"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder / 'model.safetensors'} is truncated or not a safetensors file: {error}"
        ) from None
    # Copies: one tensor that still lies in the mapped file would keep all of it in memory.
    weights = {
        _name_today(name): tensor.to(
            torch.float32 if tensor.is_floating_point() else None, copy=True
        )
        for name, tensor in weights.items()
    }
    try:
        _check_places(model.state_dict(), weights)
        check_finite(weights, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'model.safetensors'}: {error}") from None
    model.load_state_dict(weights, assign=True)
    return model.eval(), tokenizer


def _check_places(places: Weights, weights: Weights) -> None:
    """Raise CheckpointError that names weights which are missing, too many, or of another shape or kind."""
    reason = "config.json describes another model"
    if missing := sorted(places.keys() - weights.keys()):
        raise CheckpointError(f"the weights have no {some(missing)}; {reason}")
    if extra := sorted(weights.keys() - places.keys()):
        raise CheckpointError(f"the weights have {some(extra)} without a place; {reason}")
    for name, place in places.items():
        tensor = weights[name]
        if tensor.shape != place.shape:
            shapes = f"{tuple(tensor.shape)} and not {tuple(place.shape)}"
            raise CheckpointError(f"{name} is {shapes}; {reason}")
        if place.is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(f"{name} is {tensor.dtype} and not {place.dtype}")


def _name_today(name: str) -> str:
    """A tensor's name; those of format 1 that have changed since are brought up to date."""
    return name.replace(".body.rise.", ".body.up.").replace(".body.fall.", ".body.down.")


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as `dtype`, or as it was where a finite value of it would become infinite."""
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.to(dtype)
    return stored if torch.equal(stored.isinf(), tensor.isinf()) else tensor
