"""What a batch sees of an image: patches from the cache, pixels that are decoded and augmented, or nothing."""

from __future__ import annotations

import random
from typing import Protocol

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from vlm.images import Preprocess, load_image, read_photo

from ..recipe.recipe import Augment
from ..recipe.sources import Group
from .features import FeatureCache


class Inputs(Protocol):
    """Loads one image. `grid` is the patches' `(h, w)`, or None where `load` gives pixels; `blank` is no image.

    With a `generator` the image may be mirrored and changed at random, without one it is taken as it is.
    """

    grid: tuple[int, int] | None
    blank: Tensor

    def load(self, group: Group, generator: random.Random | None = None) -> Tensor: ...


class CachedPatches:
    """Patches `(N, D)` of a frozen encoder, computed once."""

    def __init__(self, features: FeatureCache) -> None:
        self.features = features
        self.grid: tuple[int, int] | None = features.grid
        self.blank = torch.zeros(features.shape, dtype=torch.float16)

    def load(self, group: Group, generator: random.Random | None = None) -> Tensor:
        return self.features.get([group.image.key], [mirrors(group, generator)])[0]


class Pixels:
    """Pixels `(3, H, W)`, decoded anew each time. Raises ImageError or DataError for an image that is broken."""

    grid: tuple[int, int] | None = None

    def __init__(self, preprocess: Preprocess, augment: Augment) -> None:
        self.preprocess = preprocess
        self.augment = augment
        self.blank = torch.zeros(3, *preprocess.size)

    def load(self, group: Group, generator: random.Random | None = None) -> Tensor:
        data = group.image.read()
        # A part that is cut out may need all of the photo's pixels.
        cut = generator is not None and self.augment.crop > 0
        image = load_image(data) if cut else read_photo(data, self.preprocess).seen
        if mirrors(group, generator):
            image = ImageOps.mirror(image)
        if generator is not None:
            image = augmented(image, self.augment, generator)
        return self.preprocess(image)[0]


class NoImage:
    """Zeros in place of patches, for the question-only baseline."""

    def __init__(self, grid: tuple[int, int], shape: tuple[int, ...]) -> None:
        self.grid: tuple[int, int] | None = grid
        self.blank = torch.zeros(shape)

    def load(self, group: Group, generator: random.Random | None = None) -> Tensor:
        return self.blank


def mirrors(group: Group, generator: random.Random | None) -> bool:
    """Whether to show the image left-right reversed this time: never where a text names a side."""
    if generator is None or not group.source.mirror:
        return False
    return generator.random() < 0.5 and not group.names_a_side


def augmented(image: Image.Image, augment: Augment, generator: random.Random) -> Image.Image:
    """The image with a part of its area cut off, then brighter or darker, and of more or less contrast."""
    if augment.crop:
        area = 1 - augment.crop * generator.random()
        stretch = generator.uniform(3 / 4, 4 / 3) ** 0.5  # the usual range of random resized crops
        width = min(image.width, max(1, round(image.width * area**0.5 * stretch)))
        height = min(image.height, max(1, round(image.height * area**0.5 / stretch)))
        left = generator.randint(0, image.width - width)
        top = generator.randint(0, image.height - height)
        image = image.crop((left, top, left + width, top + height))
    if augment.colour:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast):
            strength = generator.uniform(1 - augment.colour, 1 + augment.colour)
            image = change(image).enhance(strength)
    return image
