"""Everyday names of ImageNet's classes, and the tagger that a model starts with."""

from __future__ import annotations

from pathlib import Path

import torch

from vlm.model.config import TagsConfig
from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer

from .package_weights import CLASSIFIER, package_weights
from .recipe import RecipeError

NAMES = Path(__file__).with_name("everyday_names.tsv")  # each class, in order, and its name


def everyday_names() -> tuple[list[str], list[int]]:
    """The everyday names of ImageNet's classes, and for each class the number of its name.

    A class whose name is no help ("web site") has the number of names, which is no name's.
    """
    lines = NAMES.read_text(encoding="utf-8").splitlines()
    of_class = [line.split("\t")[1] for line in lines]
    names = sorted(set(of_class) - {""})
    number = {name: i for i, name in enumerate(names)} | {"": len(names)}
    return names, [number[name] for name in of_class]


def tags_config(tokenizer: Tokenizer) -> TagsConfig:
    names, of_class = everyday_names()
    length = max(len(tokenizer.encode(name)) for name in names)
    return TagsConfig(len(of_class), tuple(names), length)


def start_tagger(model: VisionLanguageModel, tokenizer: Tokenizer, package: str) -> None:
    """Give the model's tagger the classifier that a package ships, and the tokens of the names.

    Raises RecipeError when the package is missing or its classifier is not of this encoder's features.
    """
    tagger = model.tagger
    assert tagger is not None
    try:
        weight, bias = list(package_weights(package).values())[-CLASSIFIER:]
    except ValueError as error:
        raise RecipeError(str(error)) from None
    if weight.shape != tagger.classifier.shape:
        raise RecipeError(
            f"tags: the classifier of {package} is {tuple(weight.shape)}, not {tuple(tagger.classifier.shape)}"
        )
    tagger.classifier.copy_(weight)
    tagger.bias.copy_(bias)
    names, of_class = everyday_names()
    tagger.name_of_class.copy_(torch.tensor(of_class))
    for row, name in zip(tagger.tokens, names, strict=True):
        ids = tokenizer.encode(name)
        row[: len(ids)] = torch.tensor(ids)
