"""Captions in which a thing goes by another name, which the tags tell: the name can only be copied.

Captions name few of the things that a classifier knows, so a decoder seldom learns that what its tags are sure of is
what to write. Here any name may take a thing's place, as pairs of image and caption are made up for objects that no
caption names by Hendricks et al. (CVPR 2016) and Venugopalan et al. (CVPR 2017).
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import lru_cache

from vlm.model.model import VisionLanguageModel

from ..data.lexicon import ANIMALS, THINGS, VEHICLES
from ..data.records import Record
from ..data.synthetic import find_mentions, plural
from ..recipe.everyday_names import everyday_names
from ..recipe.recipe import RecipeError
from ..recipe.sources import Group

ANIMAL_CLASSES = 398  # the first ones of ImageNet
WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")  # as `find_mentions` counts them
ARTICLE = re.compile(r"\b(a)n?(?=\W+$)", re.IGNORECASE)


def check_names(model: VisionLanguageModel) -> None:
    """Raise RecipeError where a model's tags do not go by the everyday names."""
    if model.config.tags is None or list(model.config.tags.names) != everyday_names()[0]:
        raise RecipeError("tell_names must be 0 for a model without tags of the everyday names")


def told(group: Group, generator: random.Random) -> tuple[Record, int] | None:
    """One of the group's captions with one thing renamed, and the number of its new name; None where none fits.

    An animal becomes another animal, and a thing or a vehicle another thing.
    """
    captions = [(r, t) for r in group.records if r.question is None for t in r.texts]
    generator.shuffle(captions)
    for record, text in captions:
        words = list(WORD.finditer(text.lower()))
        mentions = [
            m
            for m in find_mentions([word[0] for word in words])
            if m.name in ANIMALS or m.name in THINGS or m.name in VEHICLES
        ]
        if not mentions:
            continue
        mention = generator.choice(mentions)
        number, name = generator.choice(_names(mention.name in ANIMALS))
        before, after = (
            text[: words[mention.position].start()],
            text[words[mention.position].end() :],
        )
        before = ARTICLE.sub(r"\1n" if name[0] in "aeiou" else r"\1", before)
        renamed = before + (plural(name) if mention.plural else name) + after
        return replace(record, texts=(renamed,)), number
    return None


@lru_cache(maxsize=2)
def _names(animals: bool) -> list[tuple[int, str]]:
    """The everyday names of animals, or of all else, with their numbers."""
    names, of_class = everyday_names()
    of_animals = set(of_class[:ANIMAL_CLASSES])
    return [(n, name) for n, name in enumerate(names) if (n in of_animals) is animals]
