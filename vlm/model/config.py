"""What a model is made of, as frozen dataclasses that travel inside its checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from vlm.errors import UserError
from vlm.images import Preprocess
from vlm.tokenizer import TextConfig

FORMAT_VERSION = 1

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]


class ConfigError(UserError):
    """A configuration with an unknown key, a wrong type or an impossible value; the message names it."""


@dataclass(frozen=True)
class VisionConfig:
    """A timm encoder by name, and how an image becomes its input.

    `options` are keywords of the timm model that differ from the name's, such as its `depth`; `norm_eps`, where given,
    is the epsilon of its layer norms. `prefix` keeps the class and register tokens, in front of the patches.
    """

    name: str
    preprocess: Preprocess
    options: dict[str, Any] = field(default_factory=dict)
    norm_eps: float | None = None
    prefix: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("vision.name must name a timm model")
        if not isinstance(self.options, dict):
            raise ConfigError(f"vision.options must be a mapping, not {self.options!r}")


@dataclass(frozen=True)
class AdapterConfig:
    """How the encoder's features become memory tokens.

    `kind` "grid" is a norm, a projection and the place of each patch; "linear" a projection; "none" nothing; "pool"
    attention of `queries` learned queries with `heads` heads, which then are the memory in place of the patches
    (CoCa, Yu et al. 2022).
    """

    kind: Literal["grid", "linear", "none", "pool"] = "grid"
    queries: int = 0
    heads: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("grid", "linear", "none", "pool"):
            raise ConfigError(f"adapter.kind must be grid, linear, none or pool, not {self.kind!r}")
        if (self.kind == "pool") != (self.queries > 0 and self.heads > 0):
            raise ConfigError(
                "adapter.queries and adapter.heads are positive for kind pool, else 0"
            )


@dataclass(frozen=True)
class DecoderConfig:
    """The text decoder.

    `pattern` is one layer's ordered sublayers, repeated `depth` times: `s` self-attention, `c` cross-attention,
    `m` MLP. "scm" is the usual decoder; CoCa's multimodal layer is "smcm", and `text_layers` of "sm" come before the
    first of them. `prenorm` False means norm(x + f(x)), as BERT and BLIP do. `embedding_norm` normalises the
    embeddings, whose tokens are multiplied by `embedding_scale`; `memory_norm` normalises the memory anew for each
    cross-attention. `tied` output weights are the token embeddings; `head_transform` puts BERT's dense layer,
    activation and norm before them, and `head_bias` a bias behind. `causal` False lets a token see later ones.
    """

    vocab_size: int
    width: int = 256
    depth: int = 4
    heads: int = 8
    pattern: str = "scm"
    mlp_ratio: float = 4.0
    max_length: int = 64
    memory_width: int = 256
    activation: Activation = "gelu"
    prenorm: bool = True
    norm_eps: float = 1e-5
    dropout: float = 0.0
    text_layers: int = 0
    causal: bool = True
    embedding_norm: bool = False
    embedding_scale: float = 1.0
    memory_norm: bool = False
    tied: bool = True
    head_transform: bool = False
    head_bias: bool = False

    @property
    def sublayers(self) -> str:
        """All sublayers in order, one letter each."""
        return "sm" * self.text_layers + self.pattern * self.depth

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"decoder.width {self.width} is not a multiple of heads {self.heads}")
        if not self.pattern or set(self.pattern) - set("scm"):
            raise ConfigError(
                f"decoder.pattern is made of the letters s, c and m, not {self.pattern!r}"
            )
        if self.activation not in get_args(Activation):
            raise ConfigError(f"decoder.activation {self.activation!r} is unknown")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"decoder.dropout must be in [0, 1), not {self.dropout}")
        for name in ("vocab_size", "depth", "max_length", "memory_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"decoder.{name} must be positive, not {getattr(self, name)}")
        if self.text_layers < 0:
            raise ConfigError(f"decoder.text_layers must not be negative, not {self.text_layers}")


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: what `config.json` holds.

    By default a question is a prompt, which the answer continues, and the decoder attends to the image. With a
    `reader`, the reader attends to the image as it reads the question, and the decoder to what the reader made of it.
    """

    vision: VisionConfig
    decoder: DecoderConfig
    text: TextConfig = field(default_factory=TextConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    reader: DecoderConfig | None = None
    tasks: tuple[str, ...] = ("caption", "vqa")
    licence: str = ""

    def __post_init__(self) -> None:
        if self.adapter.kind == "grid" and self.vision.prefix:
            raise ConfigError("vision.prefix keeps tokens that have no place on adapter.kind grid")
        if self.reader is not None and self.reader.width != self.decoder.memory_width:
            raise ConfigError(
                f"decoder.memory_width {self.decoder.memory_width} is not reader.width {self.reader.width}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values, with the format version."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """From `to_dict`'s values. Raises ConfigError naming a missing or unknown key."""
        if not isinstance(values, dict):
            raise ConfigError("config.json is not a mapping")
        values = dict(values)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"config.json has format_version {version!r}; this release reads {FORMAT_VERSION}"
            )
        return _build(cls, values, "")


_NESTED: dict[str, type] = {
    "vision": VisionConfig,
    "preprocess": Preprocess,
    "decoder": DecoderConfig,
    "text": TextConfig,
    "adapter": AdapterConfig,
    "reader": DecoderConfig,
}


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'the configuration'} must be a mapping, not {values!r}")
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"unknown key {where + unknown[0]!r} in the configuration")
    built = {}
    for name, value in values.items():
        if name in _NESTED and not (name == "reader" and value is None):
            value = _build(_NESTED[name], value, f"{where}{name}.")
        built[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**built)
    except TypeError as error:
        raise ConfigError(f"{where or 'configuration'}: {error}") from None
