"""Reading the folders of other libraries: weights, settings and tokenizer, in the hub's formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from torch import Tensor

from vlm.model.config import Activation, ModelConfig
from vlm.typed import fit
from vlm.weights import CheckpointError
from vlm.weights.families import read_json
from vlm.weights.tables import Dropped, Table, Weights, unwrapped


@dataclass(frozen=True)
class Foreign:
    """A foreign checkpoint, read: our configuration of it, its weights with their table, and its tokenizer."""

    config: ModelConfig
    weights: Weights
    table: Table
    dropped: Dropped
    tokenizer: Backend


def read_weights(folder: Path, stem: str = "model", pickled: str = "pytorch_model") -> Weights:
    """All tensors, as float32, of `{stem}.safetensors` or, where there is none, of the older `{pickled}.bin`.

    Files split in several are found by their index. A pickle is opened for tensors alone; they may lie in the
    `state_dict` of a training's checkpoint. What wrappers put before the names is taken off; see `unwrapped`.
    """
    for name in (f"{stem}.safetensors", f"{pickled}.bin"):
        if (folder / name).is_file():
            parts = [name]
        elif (folder / f"{name}.index.json").is_file():
            index = f"{name}.index.json"
            places = read_json(folder, index).get("weight_map")
            parts = sorted(set(fit(dict[str, str], places, f"{index}: weight_map").values()))
        else:
            continue
        weights: Weights = {}
        for part in parts:
            weights |= _read_part(folder / part)
        weights = unwrapped(weights)
        return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    raise CheckpointError(f"{folder} has neither {stem}.safetensors nor {pickled}.bin")


# Where a training's checkpoint has the weights: Lightning's and timm's, torch's tutorial's, LAVIS' and DeepSpeed's;
# averaged ones where there are no others.
_STATES = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "state_dict_ema",
    "model_ema",
    "ema",
)


def _read_part(file: Path) -> Weights:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises what it likes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{file} cannot be read: {reason}") from None
    for key in _STATES:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{file} is not a mapping of names to tensors")
    return loaded


_SEVERAL_FORMS = ("image_size",)  # see `vlm.weights.processors.sides`


def settings(defaults: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A part of a foreign configuration, over what its library leaves out.

    Each value is of its default's type, and none is null that has a default. Raises CheckpointError.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where} must be a mapping, not {values!r}")
    chosen = {**defaults, **{name: value for name, value in values.items() if value is not None}}
    for name, default in defaults.items():
        if isinstance(default, bool | int | float | str) and name not in _SEVERAL_FORMS:
            chosen[name] = fit(type(default), chosen[name], f"{where}.{name}")
    return chosen


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
