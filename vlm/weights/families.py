"""Which family a checkpoint's folder is of, by its configuration: ours, one that an importer reads, or neither."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.model.config import Task
from vlm.weights import CheckpointError

FOREIGN = (
    "blip, vision-encoder-decoder, florence-2 and pix2struct of transformers, and coca of open_clip"
)
CONFIGURATION = "open_clip_config.json"
_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_NAMES = 1 << 22  # bytes: names of tensors stand at the start of a file, before all values


@dataclass(frozen=True)
class Family:
    """A family that an importer reads, and what a checkpoint of it does."""

    name: str
    tasks: tuple[Task, ...]


FLORENCE_TASKS: tuple[Task, ...] = ("caption", "vqa", "locate")
_COCA = Family("coca", ("caption",))
# By transformers' class.
_CLASSES = {
    "BlipForConditionalGeneration": Family("blip", ("caption",)),
    "BlipForQuestionAnswering": Family("blip", ("vqa",)),
    "VisionEncoderDecoderModel": Family("vision-encoder-decoder", ("caption",)),
    "Florence2ForConditionalGeneration": Family("florence-2", FLORENCE_TASKS),
    "Pix2StructForConditionalGeneration": Family("pix2struct", ("caption",)),
}
# Of a vision encoder-decoder, by transformers' `model_type`.
ENCODERS = ("vit", "deit", "beit", "swin", "donut-swin")
DECODERS = ("gpt2", "bert", "roberta", "trocr", "mbart")


def recognise(folder: Path) -> Family | None:
    """The family that a checkpoint's folder is of; None for one of ours, and for what has no readable configuration.

    Raises CheckpointError, which says what the folder is of and which families are read, for any other.
    """
    other = _other(folder)
    if isinstance(other, str):
        raise CheckpointError(
            f"{folder} is {other}, which is not read here; read are vlm's own, {FOREIGN}"
        )
    return other


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the folder. Raises CheckpointError when it is missing or no mapping."""
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / name} is not a JSON mapping")
    return values


def _other(folder: Path) -> Family | str | None:
    """A family, the words for what is none, or None where there is nothing to tell it by, or it is ours."""
    if (folder / CONFIGURATION).is_file():
        config = _try_json(folder, CONFIGURATION).get("model_cfg", {})
        return _COCA if "multimodal_cfg" in config else "open_clip's CLIP without a decoder"
    if not (folder / "config.json").is_file():
        return _without_configuration(folder)
    config = _try_json(folder, "config.json")
    if "format_version" in config:
        return None
    if "pretrained_cfg" in config or "architecture" in config:
        return f"timm's encoder {config.get('architecture')}"
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    kind = config.get("model_type")
    if not name and not kind:
        return None
    family = _CLASSES.get(name) or _by_weights(folder, kind)
    if family is None:
        return f"a checkpoint of transformers' {name or kind}"
    return _misfit(config, family) or family


def _try_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(folder, name)
    except CheckpointError:  # who loads the folder says so
        return {}


def _without_configuration(folder: Path) -> Family | str | None:
    # As CoCa was published: open_clip has the configuration, and goes by the model's name.
    if any((folder / name).is_file() for name in _OPEN_CLIP):
        clip = _mentions(folder, _OPEN_CLIP, b"visual.")
        coca = _mentions(folder, _OPEN_CLIP, b"text_decoder.")
        return "open_clip's CLIP without a decoder" if clip and not coca else _COCA
    if (folder / "adapter_config.json").is_file():
        base = _try_json(folder, "adapter_config.json").get("base_model_name_or_path")
        return f"an adapter of {base} without the model itself"
    if (folder / "model_index.json").is_file():
        name = _try_json(folder, "model_index.json").get("_class_name")
        return f"diffusers' {name}"
    return None


def _by_weights(folder: Path, kind: Any) -> Family | None:
    """Of a class that is not known, such as a user's own: what its tensors are called."""
    files = [file.name for pattern in ("model*", "pytorch_model*") for file in folder.glob(pattern)]
    if kind == "vision-encoder-decoder":
        return _CLASSES["VisionEncoderDecoderModel"]
    if kind == "pix2struct":
        return _CLASSES["Pix2StructForConditionalGeneration"]
    if kind == "florence2":
        return _CLASSES["Florence2ForConditionalGeneration"]
    if kind != "blip" or not _mentions(folder, files, b"text_decoder."):
        return None
    asked = _mentions(folder, files, b"text_encoder.")
    return _CLASSES["BlipForQuestionAnswering" if asked else "BlipForConditionalGeneration"]


def _mentions(folder: Path, files: Iterable[str], name: bytes) -> bool:
    """Whether one of the files names such a tensor: safetensors, a pickle (which is not opened) or an index."""
    for file in files:
        if (folder / file).is_file():
            with (folder / file).open("rb") as opened:
                if name in opened.read(_NAMES):
                    return True
    return False


def _misfit(config: dict[str, Any], family: Family) -> str | None:
    """The part of a vision encoder-decoder that no importer reads."""
    if family.name != "vision-encoder-decoder":
        return None
    for part, known in (("encoder", ENCODERS), ("decoder", DECODERS)):
        values = config.get(part)
        kind = values.get("model_type") if isinstance(values, dict) else None
        if kind and kind not in known:
            return f"a vision encoder-decoder whose {part} is {kind} and not {', '.join(known)}"
    return None
