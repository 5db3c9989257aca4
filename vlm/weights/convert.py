"""Other libraries' checkpoints as ours: one importer for each family, chosen by the folder's configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError

from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer
from vlm.weights import CheckpointError, blip, coca, florence, pix2struct, vision_encoder_decoder
from vlm.weights.families import FOREIGN, recognise
from vlm.weights.foreign import Foreign
from vlm.weights.store import save_checkpoint
from vlm.weights.tables import translate

# By the names of `vlm.weights.families`.
FAMILIES: dict[str, Callable[[Path], Foreign]] = {
    "blip": blip.read,
    "vision-encoder-decoder": vision_encoder_decoder.read,
    "florence-2": florence.read,
    "pix2struct": pix2struct.read,
    "coca": coca.read,
}


def read_foreign(folder: str | Path) -> tuple[VisionLanguageModel, Tokenizer]:
    """A foreign checkpoint as a model of ours, in eval mode and float32, with its tokenizer.

    Every tensor is accounted for. Raises CheckpointError when the folder is of no known family, or does not fit it.
    """
    folder = Path(folder)
    family = recognise(folder)
    if family is None:
        own = (folder / "config.json").is_file()
        reason = "is one of vlm's own" if own else "has no config.json"
        raise CheckpointError(f"{folder} {reason}; what can be converted are {FOREIGN}")
    try:
        foreign = FAMILIES[family.name](folder)
        with torch.random.fork_rng(devices=[]):  # new layers draw weights, which the file's replace
            model = VisionLanguageModel(foreign.config, initialise=False)
        weights = translate(foreign.weights, foreign.table, foreign.dropped)
        model.load_state_dict(weights, assign=True)
        tokenizer = Tokenizer(foreign.tokenizer, foreign.config.text)
    except KeyError as error:
        raise CheckpointError(f"{folder}: the configuration has no {error}") from None
    except (TypeError, AttributeError, IndexError, ArithmeticError) as error:
        raise CheckpointError(f"{folder}: the configuration describes no model: {error}") from None
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: weights and configuration differ: {first}") from None
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    size = foreign.config.decoder.vocab_size
    if tokenizer.vocab_size < size / 2:  # they differ by a few where the model's is rounded up
        raise CheckpointError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens only, of the model's {size}; it was made "
            f"without the files that hold the vocabulary"
        )
    return model.eval(), tokenizer


def convert(source: str | Path, folder: str | Path) -> None:
    """Write a foreign checkpoint as a folder of ours, in float32.

    Raises CheckpointError, see `read_foreign`, or where the folder cannot be written.
    """
    model, tokenizer = read_foreign(source)
    try:
        save_checkpoint(folder, model, tokenizer, torch.float32)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from None
