"""What is judged: each method's maps of a text's words, and maps that know nothing of the words."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vlm.encoded_image import EncodedImage
from vlm.explain.maps import METHODS

Explainer = Callable[[EncodedImage, Sequence[int], str | None], list[np.ndarray]]
"""A map `(h, w)` of weights of at least 0 for each word of a caption, or with a question of its answer."""


def by_method(name: str | None, layer: int | None = None, head: int | None = None) -> Explainer:
    """One of `vlm.explain.maps.METHODS`, or None for what a text's maps are made by where nothing else is asked for."""

    def explain(
        image: EncodedImage, ids: Sequence[int], question: str | None = None
    ) -> list[np.ndarray]:
        maps = image.maps(ids, question, layer, head, name)
        return [m.weights.numpy() for m in maps if m.role != "question"]

    return explain


def same_for_all(explain: Explainer) -> Explainer:
    """The mean of a text's maps in place of each: what they say of the photo, and nothing of the word."""

    def same(
        image: EncodedImage, ids: Sequence[int], question: str | None = None
    ) -> list[np.ndarray]:
        maps = explain(image, ids, question)
        return [np.mean(maps, axis=0)] * len(maps)

    return same


def less_the_mean(explain: Explainer) -> Explainer:
    """Each map less the mean of all maps of its text, where it exceeds it."""

    def less(
        image: EncodedImage, ids: Sequence[int], question: str | None = None
    ) -> list[np.ndarray]:
        maps = explain(image, ids, question)
        mean = np.mean(maps, axis=0)
        return [(m - mean).clip(min=0) for m in maps]

    return less


def of_picture(draw: Callable[[EncodedImage], np.ndarray]) -> Explainer:
    """One map of the picture for all words."""

    def explain(
        image: EncodedImage, ids: Sequence[int], question: str | None = None
    ) -> list[np.ndarray]:
        return [draw(image)] * len(image.captioner.tokenizer.words(ids))

    return explain


def at_random(
    image: EncodedImage, ids: Sequence[int], question: str | None = None
) -> list[np.ndarray]:
    """Noise, another for each word; the same for the same picture and text."""
    seed = zlib.crc32(np.asarray(image.picture).tobytes())
    random = np.random.default_rng((seed, *ids))
    return [random.random(_grid(image)) for _ in image.captioner.tokenizer.words(ids)]


def centre(image: EncodedImage) -> np.ndarray:
    """A bell around the photo's centre, on an odd number of cells a side, so that its peak is that point."""
    sides = [np.exp(-0.5 * (np.linspace(-1, 1, side | 1) / 0.5) ** 2) for side in _grid(image)]
    return np.outer(*sides)


def edges(image: EncodedImage) -> np.ndarray:
    """The mean strength of the picture's edges in each cell, by Sobel's operator."""
    grey = _grey(image)
    down = np.gradient(grey, axis=0)
    across = np.gradient(grey, axis=1)
    return _pooled(torch.from_numpy(np.hypot(_smooth(down, 1), _smooth(across, 0))), _grid(image))


def saliency(image: EncodedImage) -> np.ndarray:
    """What is unexpected in the picture's spectrum: the spectral residual of Hou and Zhang, CVPR 2007."""
    side = 64  # the paper's size
    grey = _pooled(torch.from_numpy(_grey(image)), (side, side))
    spectrum = np.fft.fft2(grey)
    logs = np.log(np.abs(spectrum) + 1e-8)
    box = sum(np.roll(logs, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    residual = np.abs(np.fft.ifft2(np.exp(logs - box + 1j * np.angle(spectrum)))) ** 2
    for axis in (0, 1):
        residual = _smooth(_smooth(residual, axis), axis)
    return _pooled(torch.from_numpy(residual), _grid(image))


BASELINES: dict[str, Explainer] = {
    "random": at_random,
    "centre": of_picture(centre),
    "edges": of_picture(edges),
    "saliency": of_picture(saliency),
    "same map": same_for_all(by_method("attention")),
    "same map, default": same_for_all(by_method(None)),
}


def explainers(methods: Sequence[str]) -> dict[str, Explainer]:
    """The baselines and the methods, by name. Raises ValueError for a method that there is not."""
    for name in methods:
        if name not in METHODS:
            raise ValueError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    return {**BASELINES, **{name: by_method(name) for name in methods}}


def _grid(image: EncodedImage) -> tuple[int, int]:
    grid = image.memory.image.grid
    assert grid is not None
    return grid


def _grey(image: EncodedImage) -> np.ndarray:
    """What the model saw of the picture, in grey, `(H, W)` in 0..1."""
    return np.asarray(image.photo.seen.convert("L"), dtype=np.float32) / 255


def _smooth(values: np.ndarray, axis: int) -> np.ndarray:
    """Weights 1, 2, 1 along an axis; beyond the border is what lies at it."""
    padded = np.pad(values, [(int(axis == side), int(axis == side)) for side in (0, 1)], "edge")
    ends = [np.take(padded, range(i, i + values.shape[axis]), axis) for i in (0, 1, 2)]
    return (ends[0] + 2 * ends[1] + ends[2]) / 4


def _pooled(values: Tensor, grid: tuple[int, int]) -> np.ndarray:
    return torch.nn.functional.adaptive_avg_pool2d(values[None, None], grid)[0, 0].numpy()
