"""What a model is made of, as frozen dataclasses that travel inside its checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from vlm.images import Preprocess

FORMAT_VERSION = 1

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


class ConfigError(ValueError):
    """A configuration with an unknown key, a wrong type or an impossible value; the message names it."""


@dataclass(frozen=True)
class VisionConfig:
    """A timm encoder by name, and how an image becomes its input."""

    name: str
    preprocess: Preprocess

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("vision.name must name a timm model")


@dataclass(frozen=True)
class DecoderConfig:
    """The text decoder.

    `pattern` is one layer's ordered sublayers, repeated `depth` times: `s` self-attention, `c` cross-attention,
    `m` MLP. "scm" is the usual decoder; CoCa's multimodal layer is "smcm". `prenorm` False means
    norm(x + f(x)), as BERT and BLIP do.
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

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"decoder.width {self.width} is not a multiple of heads {self.heads}")
        if not self.pattern or set(self.pattern) - set("scm"):
            raise ConfigError(
                f"decoder.pattern is made of the letters s, c and m, not {self.pattern!r}"
            )
        if self.activation not in ("gelu", "gelu_tanh", "quick_gelu"):
            raise ConfigError(f"decoder.activation {self.activation!r} is unknown")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"decoder.dropout must be in [0, 1), not {self.dropout}")
        for name in ("vocab_size", "depth", "max_length", "memory_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"decoder.{name} must be positive, not {getattr(self, name)}")


@dataclass(frozen=True)
class TextConfig:
    """How words meet the decoder: the special tokens, and the prompts that start a caption or an answer.

    A caption's prompt is `[caption]`; a question's is `[question] words [answer]`. The text ends with `end`.
    """

    pad: str = "<pad>"
    end: str = "<end>"
    caption: str = "<caption>"
    question: str = "<question>"
    answer: str = "<answer>"


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: what `config.json` holds."""

    vision: VisionConfig
    decoder: DecoderConfig
    text: TextConfig = field(default_factory=TextConfig)
    tasks: tuple[str, ...] = ("caption", "vqa")
    licence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values, with the format version."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """From `to_dict`'s values. Raises ConfigError naming a missing or unknown key."""
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
        if name in _NESTED:
            value = _build(_NESTED[name], value, f"{where}{name}.")
        built[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**built)
    except TypeError as error:
        raise ConfigError(f"{where or 'configuration'}: {error}") from None
