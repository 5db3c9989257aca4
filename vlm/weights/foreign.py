"""Reading the folders of other libraries: weights, preprocessing and tokenizer, in the hub's formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from torch import Tensor

from vlm.images import Preprocess
from vlm.model.config import Activation, ModelConfig
from vlm.weights import CheckpointError
from vlm.weights.tables import Dropped, Table, Weights


@dataclass(frozen=True)
class Foreign:
    """A foreign checkpoint, read: our configuration of it, its weights with their table, and its tokenizer."""

    config: ModelConfig
    weights: Weights
    table: Table
    dropped: Dropped
    tokenizer: Backend


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the folder. Raises CheckpointError when it is missing or no mapping."""
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {name}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / name} is not a JSON mapping")
    return values


def read_weights(folder: Path, stem: str = "model", pickled: str = "pytorch_model") -> Weights:
    """All tensors, as float32, of `{stem}.safetensors` or, where there is none, of the older `{pickled}.bin`.

    Files split in several are found by their index. A pickle is opened for tensors alone; they may lie in the
    `state_dict` of a training's checkpoint.
    """
    for name in (f"{stem}.safetensors", f"{pickled}.bin"):
        if (folder / name).is_file():
            parts = [name]
        elif (folder / f"{name}.index.json").is_file():
            parts = sorted(set(read_json(folder, f"{name}.index.json")["weight_map"].values()))
        else:
            continue
        weights: Weights = {}
        for part in parts:
            weights |= _read_part(folder / part)
        return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    raise CheckpointError(f"{folder} has neither {stem}.safetensors nor {pickled}.bin")


def _read_part(file: Path) -> Weights:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises what it likes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{file} cannot be read: {reason}") from None
    if isinstance(loaded, dict):
        loaded = loaded.get("state_dict", loaded)
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{file} is not a mapping of names to tensors")
    return loaded


_RESAMPLING: dict[int, Any] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # as PIL numbers them


def read_preprocess(folder: Path, size: tuple[int, int], resample: int) -> Preprocess:
    """The preprocessing of transformers' `preprocessor_config.json`, for an encoder of that input size.

    `resample` is the family's own, for files that do not say. Raises CheckpointError for what has no equal here.
    """
    name = "preprocessor_config.json"
    newer = "processor_config.json"
    if not (folder / name).is_file() and (folder / newer).is_file():
        values = read_json(folder, newer).get("image_processor", {})
    else:
        values = read_json(folder, name)
    for step in ("do_resize", "do_normalize", "do_rescale"):
        if not values.get(step, True):
            raise CheckpointError(f"{folder / name}: {step} is false, which has no equal here")
    if abs(values.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        raise CheckpointError(f"{folder / name}: rescale_factor is not 1/255")
    resized = values.get("size", size[0])
    shortest = isinstance(resized, dict) and "shortest_edge" in resized
    becomes = sides(resized)
    cropped = sides(values.get("crop_size", becomes)) if values.get("do_center_crop") else becomes
    if becomes != size or cropped != size:
        raise CheckpointError(
            f"{folder / name}: images become {becomes[0]} x {becomes[1]}, cropped to {cropped[0]} x {cropped[1]}, but "
            f"the encoder reads {size[0]} x {size[1]}"
        )
    if shortest and not values.get("do_center_crop"):
        raise CheckpointError(f"{folder / name}: images keep their shape, which has no equal here")
    return Preprocess(
        size=size,
        mean=tuple(values["image_mean"]),
        std=tuple(values["image_std"]),
        fit="crop" if shortest else "squash",
        interpolation=_RESAMPLING[values.get("resample", resample)],
    )


def sides(value: Any) -> tuple[int, int]:
    """Height and width of a size: a number, a pair or a mapping."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, dict):
        if "shortest_edge" in value:
            return value["shortest_edge"], value["shortest_edge"]
        return value["height"], value["width"]
    return value[0], value[1]


def read_tokenizer(folder: Path) -> Backend:
    """`tokenizer.json`, without the padding and truncation that it may set up."""
    try:
        backend = Backend.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the backend raises bare Exception
        raise CheckpointError(
            f"{folder} has no tokenizer.json that can be read ({error}); make one with transformers, "
            f"and sentencepiece where its files are of that: "
            f"AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        ) from None
    backend.no_padding()
    backend.no_truncation()
    return backend


def token(backend: Backend, number: int, new: str | None = None) -> str:
    """The text of a special token by its id; `new` is added where the vocabulary ends just before it."""
    if new is not None and number == backend.get_vocab_size(with_added_tokens=True):
        backend.add_special_tokens([AddedToken(new, special=True)])
    text = backend.id_to_token(number)
    if text is None:
        raise CheckpointError(f"tokenizer.json has no token {number}, which config.json names")
    # A special token is dropped from the text that is shown.
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    return text


_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


def activation(name: str) -> Activation:
    """Our name of transformers' activation."""
    if name not in _ACTIVATIONS:
        raise CheckpointError(f"the activation {name!r} has no equal here")
    return _ACTIVATIONS[name]


def expect(values: Mapping[str, Any], where: str, **expected: Any) -> None:
    """Raise CheckpointError where a configuration asks for something that the importer does not have."""
    for name, value in expected.items():
        if values.get(name, value) != value:
            raise CheckpointError(
                f"{where}.{name} is {values[name]!r}; only {value!r} is known here"
            )
