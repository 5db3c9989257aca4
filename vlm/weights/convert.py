"""Other libraries' checkpoints as ours: one importer for each family, chosen by the folder's configuration."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vlm import __version__
from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer
from vlm.weights import CheckpointError, blip, coca, vision_encoder_decoder
from vlm.weights.foreign import Foreign, read_json
from vlm.weights.store import save_checkpoint
from vlm.weights.tables import translate

# By transformers' `model_type`; CoCa's folders are open_clip's.
FAMILIES: dict[str, Callable[[Path], Foreign]] = {
    "blip": blip.read,
    "vision-encoder-decoder": vision_encoder_decoder.read,
    "coca": coca.read,
}


def family(folder: Path) -> str | None:
    """The family of a foreign checkpoint's folder; None for ours, and for those that no importer knows."""
    try:
        if (folder / "open_clip_config.json").is_file():
            model = read_json(folder, "open_clip_config.json").get("model_cfg", {})
            return "coca" if "multimodal_cfg" in model else None
        if not (folder / "config.json").is_file() and coca.has_weights(folder):
            return "coca"  # as published: open_clip has the configuration, and goes by the name
        model_type = read_json(folder, "config.json").get("model_type")
    except CheckpointError:
        return None
    return model_type if model_type in FAMILIES else None


def read_foreign(folder: str | Path) -> tuple[VisionLanguageModel, Tokenizer]:
    """A foreign checkpoint as a model of ours, in eval mode and float32, with its tokenizer.

    Every tensor is accounted for. Raises CheckpointError when the folder is of no known family, or does not fit it.
    """
    folder = Path(folder)
    name = family(folder)
    if name is None:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"{folder} is not a checkpoint that can be converted ({known})")
    try:
        foreign = FAMILIES[name](folder)
        model = VisionLanguageModel(foreign.config, initialise=False)
        weights = translate(foreign.weights, foreign.table, foreign.dropped)
        model.load_state_dict(weights, assign=True)
        tokenizer = Tokenizer(foreign.tokenizer, foreign.config.text)
    except KeyError as error:
        raise CheckpointError(f"{folder}: the configuration has no {error}") from None
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: weights and configuration differ: {first}") from None
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"{folder}: {error}") from None
    size = foreign.config.decoder.vocab_size
    if tokenizer.vocab_size < size / 2:  # they differ by a few where the model's is rounded up
        raise CheckpointError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens only, of the model's {size}; it was made "
            f"without the files that hold the vocabulary"
        )
    return model.eval(), tokenizer


def convert(source: str | Path, folder: str | Path) -> None:
    """Write a foreign checkpoint as a folder of ours, in float32. Raises CheckpointError, see `read_foreign`."""
    model, tokenizer = read_foreign(source)
    save_checkpoint(folder, model, tokenizer, torch.float32)


def converted(source: Path) -> Path:
    """The folder of a foreign checkpoint as ours, made at its first use and kept in the user's cache.

    It is made anew when the foreign files change, or the release that reads them. Raises CheckpointError, see
    `read_foreign`.
    """
    files = sorted(file for file in source.iterdir() if file.is_file())
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr((__version__, str(source.resolve()), state)).encode())
    key = digest.hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vlm" / "converted"
    folder = cache / key
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # Made elsewhere and then moved: a run that is interrupted, or two at once, leave no half of one.
        with TemporaryDirectory(dir=cache) as part:
            convert(source, Path(part) / key)
            try:
                Path(part, key).rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder
