"""What a model is made of, as frozen dataclasses that travel inside its checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from vlm.images import Preprocess
from vlm.tokenizer import TextConfig
from vlm.typed import (
    Count,
    FieldError,
    Finite,
    Limit,
    Natural,
    NonNegative,
    Positive,
    Share,
    build,
    check_fields,
)

FORMAT_VERSION = 2
READABLE = (1, 2)  # in the first, an MLP's layers were called rise and fall

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]
Task = Literal["caption", "vqa", "locate"]  # the last: boxes of what it names

_LAYERS = 1_000  # a typing error must not build layers until the memory is full
_NAME = Limit("the name of a timm model", bool)
_DEPTH = Limit(f"from 1 to {_LAYERS:,}", lambda value: 1 <= value <= _LAYERS)
_ABOVE_ZERO = Limit("in (0, 1)", lambda value: 0 < value < 1)
_TEXT_LAYERS = Limit(f"from 0 to {_LAYERS:,}", lambda value: 0 <= value <= _LAYERS)
_PATTERN = Limit(
    "made of the letters s, c and m", lambda value: value and not set(value) - set("scm")
)
_TASKS = Limit("at least one task, each once", lambda value: 0 < len(value) == len(set(value)))


class ConfigError(FieldError):
    """A configuration with an unknown key, a wrong type or an impossible value; the message names it."""


@dataclass(frozen=True)
class VisionConfig:
    """A timm encoder by name, or "pix2struct" (see `vlm.model.patch_transformer`), and how an image becomes its input.

    `options` are keywords of the model that differ from the name's, such as its `depth`; `norm_eps`, where given,
    is the epsilon of its layer norms. `prefix` keeps the class and register tokens, in front of the patches;
    `last_norm` False leaves out the norm behind the last block. `detail`, of CNNs, gives each patch also the four cells
    of the map of half its stride: the memory's grid is twice as fine.
    """

    name: Annotated[str, _NAME]
    preprocess: Preprocess
    options: dict[str, Any] = field(default_factory=dict)
    norm_eps: Positive | None = None
    prefix: bool = False
    last_norm: bool = True
    detail: bool = False

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)


@dataclass(frozen=True)
class AdapterConfig:
    """How the encoder's features become memory tokens.

    `kind` "grid" is a norm, a projection and the place of each patch; "linear" a projection; "none" nothing; "pool"
    attention of `queries` learned queries with `heads` heads, which then are the memory in place of the patches
    (CoCa, Yu et al. 2022); "places" learned embeddings of up to `places` rows and as many columns, the mean of all
    patches in front of them, a projection and a norm (Florence-2, Xiao et al. 2023).
    """

    kind: Literal["grid", "linear", "none", "pool", "places"] = "grid"
    queries: Natural = 0
    heads: Natural = 0
    places: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)
        for name, kind in (("queries", "pool"), ("heads", "pool"), ("places", "places")):
            if (getattr(self, name) > 0) != (self.kind == kind):
                wanted = "positive" if self.kind == kind else "0"
                raise ConfigError(
                    f"{name} must be {wanted} for kind {self.kind}, not {getattr(self, name)}"
                )


@dataclass(frozen=True)
class DecoderConfig:
    """The text decoder.

    `pattern` is one layer's ordered sublayers, repeated `depth` times: `s` self-attention, `c` cross-attention,
    `m` MLP. "scm" is the usual decoder; CoCa's multimodal layer is "smcm", and `text_layers` of "sm" come before the
    first of them. `prenorm` False means norm(x + f(x)), as BERT and BLIP do. `embedding_norm` normalises the
    embeddings, whose tokens are multiplied by `embedding_scale`; `memory_norm` normalises the memory anew for each
    cross-attention. `tied` output weights are the token embeddings; `head_transform` puts BERT's dense layer,
    activation and norm before them, and `head_bias` a bias behind. `causal` False lets a token see later ones. A reader
    whose pattern is "sm" reads the question and the image as one: `slots` of the memory stand in front of its tokens.
    `norm` "rms" divides by the root mean square alone, and a `gated` MLP multiplies its activated layer with a second
    (GEGLU, Shazeer 2020). With `buckets` tokens have no places: self-attention adds to its scores a number that is
    learned for how far back a token lies, in as many steps, the last for `reach` tokens and more (T5, Raffel et al.
    2020).
    `alignment_heads` are the cross-attention heads, `(layer, head)` from 0, whose mean says where a word looked; where
    none is named all do. They differ: some look at what a word is about, others at the picture's border.
    """

    vocab_size: Count
    width: Count = 256
    depth: Annotated[int, _DEPTH] = 4
    heads: Count = 8
    pattern: Annotated[str, _PATTERN] = "scm"
    mlp_ratio: Positive = 4.0
    max_length: Count = 64
    memory_width: Count = 256
    activation: Activation = "gelu"
    prenorm: bool = True
    norm_eps: Positive = 1e-5
    dropout: Share = 0.0
    text_layers: Annotated[int, _TEXT_LAYERS] = 0
    causal: bool = True
    embedding_norm: bool = False
    embedding_scale: Finite = 1.0
    memory_norm: bool = False
    tied: bool = True
    head_transform: bool = False
    head_bias: bool = False
    slots: Natural = 0
    norm: Literal["layer", "rms"] = "layer"
    gated: bool = False
    buckets: Natural = 0
    reach: Natural = 128
    alignment_heads: tuple[tuple[Natural, Natural], ...] = ()

    @property
    def sublayers(self) -> str:
        """All sublayers in order, one letter each."""
        return "sm" * self.text_layers + self.pattern * self.depth

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}")
        if round(self.width * self.mlp_ratio) < 1:
            raise ConfigError(f"mlp_ratio {self.mlp_ratio} of width {self.width} leaves no channel")
        if self.slots and (self.pattern != "sm" or self.causal or self.memory_width != self.width):
            raise ConfigError(
                "slots stand in front of tokens where pattern is sm, causal false and memory_width the width"
            )
        if self.buckets and (not self.causal or self.buckets // 2 not in range(1, self.reach)):
            raise ConfigError(
                f"buckets are at least 2 steps back of a causal decoder, not {self.buckets} for a reach of {self.reach}"
            )
        for layer, head in self.alignment_heads:
            if layer >= self.sublayers.count("c") or head >= self.heads:
                raise ConfigError(
                    f"alignment_heads has layer {layer}, head {head}, which is not there"
                )


@dataclass(frozen=True)
class TagsConfig:
    """Words for the decoder to attend to, from a classifier over the mean of the encoder's patches.

    The classifier's `classes` have fewer everyday `names`, of at most `length` tokens each. The `top` most probable
    names are given where they have a probability of `least` or more. From `sure` on a caption is nudged to use the
    name: each of its tokens becomes likelier by `nudge` nats, see `vlm.nudges`.
    """

    classes: Count
    names: tuple[str, ...]
    length: Count
    top: Count = 4
    least: Annotated[float, _ABOVE_ZERO] = 0.05
    sure: Annotated[float, _ABOVE_ZERO] = 0.85
    nudge: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)
        if self.top > len(self.names):
            raise ConfigError(f"top {self.top} is more than there are names, {len(self.names)}")


@dataclass(frozen=True)
class DocumentsConfig:
    """What passages of documents are read by, and the layers behind the decoder that attend to them.

    The reader has `depth` layers and the decoder `layers` more, of the decoder's width and heads, with MLPs of
    `mlp_ratio` times the width; what points at words, and what finds them, has `pointer_width` channels. Up to `most`
    passages of `length` tokens each are read at once.
    """

    depth: Count = 2
    layers: Count = 2
    mlp_ratio: Positive = 0.5
    pointer_width: Count = 128
    length: Count = 64
    most: Count = 8

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)


@dataclass(frozen=True)
class CalibrationConfig:
    """What the decoder's logits are divided by where probabilities are told: temperatures of answers and captions.

    Above 1 the model is less sure than it says of itself. They are fitted on what it has not learnt from (Guo et al.,
    2017) and change no search.
    """

    answers: Positive = 1.0
    captions: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)


@dataclass(frozen=True)
class VerdictConfig:
    """From where on a text is sure, and below what it is a guess.

    Of an answer that is by its confidence, of a caption by the mean of its tokens' probabilities (geometric); about an
    image that is less like a photo than `photo`, every text is a guess. See `vlm.model.likeness`. Answers beside
    documents have limits of their own, and where they were not fitted those of others.
    """

    photo: Finite
    sure_answer: NonNegative
    guess_answer: NonNegative
    sure_caption: NonNegative
    guess_caption: NonNegative
    sure_documents: NonNegative | None = None
    guess_documents: NonNegative | None = None

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)
        if (self.sure_documents is None) != (self.guess_documents is None):
            raise ConfigError(
                "sure_documents and guess_documents are fitted together; give both or none"
            )
        for task in ("answer", "caption", "documents"):
            sure, guess = getattr(self, f"sure_{task}"), getattr(self, f"guess_{task}")
            if sure is not None and guess > sure:
                raise ConfigError(f"guess_{task} {guess} is above sure_{task} {sure}")


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: what `config.json` holds.

    By default a question is a prompt, which the answer continues, and the decoder attends to the image. With a
    `reader`, the reader attends to the image as it reads the question, and the decoder to what the reader made of it.
    With `tags`, words for what the image shows are in the memory beside its patches, and with `documents` passages can
    be. `mean_patches` is how many patches
    the weights hold of a mean image, which stands in where no image is shown; with 0 they hold none. With a `verdict`
    the model says how far to trust its texts.
    """

    vision: VisionConfig
    decoder: DecoderConfig
    text: TextConfig = field(default_factory=TextConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    reader: DecoderConfig | None = None
    tags: TagsConfig | None = None
    documents: DocumentsConfig | None = None
    mean_patches: Natural = 0
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    verdict: VerdictConfig | None = None
    tasks: Annotated[tuple[Task, ...], _TASKS] = ("caption", "vqa")
    licence: str = ""

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)
        if self.adapter.kind == "grid" and self.vision.prefix:
            raise ConfigError("vision.prefix keeps tokens that have no place on adapter.kind grid")
        if self.vision.detail and self.adapter.kind != "grid":
            raise ConfigError(f"vision.detail needs adapter.kind grid, not {self.adapter.kind}")
        looking = self.reader or self.decoder
        if self.adapter.kind == "pool" and looking.memory_width % self.adapter.heads:
            name = "decoder" if self.reader is None else "reader"
            raise ConfigError(
                f"{name}.memory_width {looking.memory_width} is not a multiple of adapter.heads {self.adapter.heads}"
            )
        if self.tags is not None and self.reader is not None:
            raise ConfigError(
                "tags are words for a decoder that attends to the image; leave them out beside a reader"
            )
        if self.documents is not None and (
            self.reader is not None or self.decoder.memory_width != self.decoder.width
        ):
            raise ConfigError(
                "documents are for a decoder that attends to the image by itself, and whose memory_width is its width"
            )
        marked = self.text.question and self.text.answer
        if "vqa" in self.tasks and not (marked or self.text.painted):
            raise ConfigError("text.question and text.answer begin and end a question of tasks vqa")
        if self.reader is not None and self.reader.width != self.decoder.memory_width:
            raise ConfigError(
                f"decoder.memory_width {self.decoder.memory_width} is not reader.width {self.reader.width}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values, with the format version."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """From `to_dict`'s values. Raises ConfigError naming a key that is missing, unknown or of a wrong value."""
        if not isinstance(values, dict):
            raise ConfigError("config.json is not a mapping")
        values = dict(values)
        version = values.pop("format_version", None)
        if version not in READABLE or isinstance(version, bool):
            raise ConfigError(
                f"config.json has format_version {version!r}; this release reads {READABLE}"
            )
        return build(cls, values, ConfigError, "config.json")
