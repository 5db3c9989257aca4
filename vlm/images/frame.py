"""The one owner of resize and crop, so the only one that places a heatmap on a photo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from PIL import Image

from vlm.typed import FieldError, Finite, Limit, Natural, Positive, check_fields

if TYPE_CHECKING:
    import torch

Side = Annotated[int, Limit("from 1 to 10,000", lambda value: 1 <= value <= 10_000)]  # pixels
_LONGEST = 16  # sides: a strip longer than that is resized in one step, for the first would fill the memory
_PAPER = 200  # of 255 greys
Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]  # Pillow's


@dataclass(frozen=True)
class Frame:
    """How the model's input lies on the original, upright image.

    The model saw the box `(left, top, right, bottom)` of an image of `width` x `height` pixels, resized to its
    input size. A grid of patches divides the box evenly. What of the box lies beside the image was padding.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]

    def scaled(self, width: int, height: int) -> Frame:
        """The same place on a copy of the image that has `width` x `height` pixels."""
        left, top, right, bottom = self.box
        across, down = width / self.width, height / self.height
        return Frame(width, height, (left * across, top * down, right * across, bottom * down))

    def spread(self, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """How the image's pixels draw on the patches of a grid `(h, w)`: float32 rows `(H, h)` and columns `(W, w)`.

        `rows @ values @ columns.T` is a map at each pixel. Shares of a pixel sum to 1, and are NaN where the model
        did not see it. A patch has its own value at its centre, and values between centres lie between theirs, so a
        maximum stays inside its patch.
        """
        left, top, right, bottom = self.box
        rows = _shares(top, bottom, grid[0], self.height)
        return rows, _shares(left, right, grid[1], self.width)

    def cells(self, box: Sequence[float], grid: tuple[int, int]) -> np.ndarray:
        """Which patches of a grid `(h, w)` have their centre in a box `(left, top, right, bottom)` of the image."""
        rows = _centres(self.box[1], self.box[3], grid[0])
        columns = _centres(self.box[0], self.box[2], grid[1])
        down = (rows >= box[1]) & (rows < box[3])
        across = (columns >= box[0]) & (columns < box[2])
        return down[:, None] & across


def pixel_steps(shares: np.ndarray) -> list[tuple[int, float] | None]:
    """Rows of `Frame.spread` `(pixels, cells)`, of which no more than two neighbouring cells are not 0."""
    steps: list[tuple[int, float] | None] = []
    for row in shares.tolist():
        if math.isnan(row[0]):
            steps.append(None)
            continue
        first = next(cell for cell, share in enumerate(row) if share > 0)
        steps.append((first, round(sum(row[first + 1 :]), 4)))
    return steps


def _centres(start: float, stop: float, cells: int) -> np.ndarray:
    return start + (stop - start) * (np.arange(cells) + 0.5) / cells


def _shares(start: float, stop: float, cells: int, pixels: int) -> np.ndarray:
    """How each pixel of a side draws on the cells that divide `[start, stop)` of it, `(pixels, cells)`."""
    cell = (stop - start) / cells
    places = np.arange(pixels)[:, None] + 0.5  # the pixels' centres
    if cell < 1:  # a pixel holds several cells: their mean, by how much of each it covers
        edges = start + cell * np.arange(cells + 1)
        covered = np.minimum(edges[1:], places + 0.5) - np.maximum(edges[:-1], places - 0.5)
        share = covered.clip(min=0)
    else:
        position = ((places - start) / cell - 0.5).clip(0, cells - 1)
        near = (1 - np.abs(position - np.arange(cells))).clip(min=0)
        share = near**2 * (3 - 2 * near)  # smoothstep: round spots where a line would draw crosses
    total = share.sum(axis=1, keepdims=True)
    # A pixel that the stretch touches was seen, but for rounding.
    total[(places + 0.5 < start + 1e-6) | (places - 0.5 > stop - 1e-6)] = np.nan
    return (share / total).astype(np.float32)


def printed_box(page: Image.Image) -> tuple[int, int, int, int]:
    """The least box `(left, top, right, bottom)` that holds all that is darker than paper; a page of one grey is whole.

    Paper is what lies in the upper part of the page's own greys, from 200 of 255, as Nougat has it.
    """
    greys = np.asarray(page.convert("L"), dtype=np.float64)
    low, high = greys.min(), greys.max()
    if low == high:
        return (0, 0, page.width, page.height)
    ink = (greys - low) / (high - low) * 255 < _PAPER
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@dataclass(frozen=True)
class Preprocess:
    """From an image to the model's pixels: size, fit, interpolation, mean and deviation, as the encoder was trained.

    `fit` is "squash" (the whole image, aspect ratio not kept), "crop" (the largest box of the input's shape in the
    middle, rounded to pixels as torchvision's Resize and CenterCrop do), "pad" (the whole image in the middle of
    black, its shape kept, resized in the two steps of Donut's thumbnails), "page" (the same of what is printed, without
    the margins, its second step bicubic; Nougat, Blecher et al. 2023) or "patches" (the whole image, nearly in its
    shape, as the most patches of `size` that are no more than `patches`, normalised by its own mean and deviation;
    Pix2Struct, Lee et al. 2023). `size` is `(height, width)`; `mean` and `std` are for values in 0..1. Raises
    `vlm.typed.FieldError` for a value that a field does not take.
    """

    size: tuple[Side, Side]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    fit: Literal["squash", "crop", "pad", "page", "patches"] = "squash"
    interpolation: Interpolation = "bicubic"
    patches: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.patches > 0) != (self.fit == "patches"):
            raise FieldError(f"patches {self.patches} and fit {self.fit} are not of one kind")

    def view(self, image: Image.Image) -> tuple[Image.Image, Frame]:
        """What the model sees of `image` (RGB, upright), see `resized`, and where that lies on it."""
        if self.fit != "page":
            return self.resized(image), self.frame(image.width, image.height)
        left, top, right, bottom = printed = printed_box(image)
        seen = self._padded(image.crop(printed))
        inner = self.frame(right - left, bottom - top).box
        box = (left + inner[0], top + inner[1], left + inner[2], top + inner[3])
        return seen, Frame(image.width, image.height, box)

    def frame(self, width: int, height: int) -> Frame:
        """Where the model's input lies on an image of that size, of a "page" on what is printed there."""
        if self.fit in ("squash", "patches"):
            return Frame(width, height, (0.0, 0.0, float(width), float(height)))
        if self.fit in ("pad", "page"):
            return self._padded_frame(width, height)
        # As torchvision rounds: the resized image has whole pixels, and so has what is left out of it.
        input_height, input_width = self.size
        if width * input_height <= height * input_width:
            resized_width, resized_height = input_width, int(input_width * height / width)
        else:
            resized_width, resized_height = int(input_height * width / height), input_height
        left = round((resized_width - input_width) / 2)
        top = round((resized_height - input_height) / 2)
        box = (
            left * width / resized_width,
            top * height / resized_height,
            (left + input_width) * width / resized_width,
            (top + input_height) * height / resized_height,
        )
        return Frame(width, height, box)

    def resized(self, image: Image.Image) -> Image.Image:
        """What the model sees of `image` (RGB, upright), in the input's size; of its own result, an equal picture.

        An image that becomes "patches" is kept as it is, for its mean and deviation are its own.
        """
        if self.fit == "patches":
            return image
        if self.fit == "page":
            return self._padded(image.crop(printed_box(image)))
        if self.fit == "pad":
            return self._padded(image)
        return self.cut(image, self.frame(image.width, image.height).box)

    def cut(self, image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
        """A box of `image` in the input's size."""
        height, width = self.size
        return image.resize((width, height), self._resampling, box=box)

    def spare(self, width: int, height: int) -> float:
        """By how much an image's sides may be divided before a box is cut out, with little difference; 1 is not at all.

        Twice the input's pixels have to be left. "nearest" and "box" take or leave single ones, "pad" and "page" resize
        all of them twice, and "patches" takes their mean and deviation.
        """
        if self.interpolation in ("nearest", "box") or self.fit in ("pad", "page", "patches"):
            return 1.0
        left, top, right, bottom = self.frame(width, height).box
        return min((right - left) / (2 * self.size[1]), (bottom - top) / (2 * self.size[0]))

    @property
    def _resampling(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _padded(self, image: Image.Image) -> Image.Image:
        filled, whole = self._thumbnail(image.width, image.height)
        if max(filled) <= _LONGEST * min(filled):
            image = image.resize(filled, self._resampling)
        height, width = self.size
        padded = Image.new("RGB", (width, height))
        corner = (width - whole[0]) // 2, (height - whole[1]) // 2
        if self.fit == "pad":
            image = image.resize(whole, self._resampling)
        elif whole != image.size:
            image = image.resize(whole, Image.Resampling.BICUBIC, reducing_gap=2.0)
        padded.paste(image, corner)
        return padded

    def _padded_frame(self, width: int, height: int) -> Frame:
        _, (whole_width, whole_height) = self._thumbnail(width, height)
        across, down = width / whole_width, height / whole_height
        left = -((self.size[1] - whole_width) // 2) * across
        top = -((self.size[0] - whole_height) // 2) * down
        box = (left, top, left + self.size[1] * across, top + self.size[0] * down)
        return Frame(width, height, box)

    def _thumbnail(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """`(width, height)` of an image whose shorter side is the input's, and then of one that lies within the input.

        As transformers' Donut rounds them.
        """
        short = min(self.size)
        longer = int(short * max(width, height) / min(width, height))
        filled = (short, longer) if width <= height else (longer, short)
        if filled[0] <= self.size[1] and filled[1] <= self.size[0]:
            return filled, filled
        whole_width, whole_height = min(filled[0], self.size[1]), min(filled[1], self.size[0])
        if height > width:
            whole_width = max(1, int(filled[0] * whole_height / filled[1]))
        elif width > height:
            whole_height = max(1, int(filled[1] * whole_width / filled[0]))
        return filled, (whole_width, whole_height)

    def __call__(self, image: Image.Image) -> tuple[torch.Tensor, Frame]:
        """Pixels `(3, H, W)`, float32 and normalised, and the Frame that places them on `image` (RGB, upright)."""
        seen, frame = self.view(image)
        return self.pixels(seen), frame

    def pixels(self, seen: Image.Image) -> torch.Tensor:
        """Pixels `(3, H, W)`, float32 and normalised, of what `resized` gave."""
        import torch

        # A copy, because torch cannot hold PIL's read-only buffer.
        levels = torch.from_numpy(np.array(seen, dtype=np.uint8)).permute(2, 0, 1)
        if self.fit == "patches":
            return self._patched(levels.float())
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        return (levels.float().div_(255) - mean) / std

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of the patches that an image of that size becomes, where `fit` is "patches"."""
        high, wide = self.size
        scale = (self.patches * (high / height) * (wide / width)) ** 0.5
        rows, columns = int(scale * height / high), int(scale * width / wide)
        return max(min(rows, self.patches), 1), max(min(columns, self.patches), 1)

    def _patched(self, levels: torch.Tensor) -> torch.Tensor:
        """Pixels of whole patches, as transformers' Pix2Struct makes them of levels `(3, H, W)`."""
        import torch.nn.functional as F

        deviation = levels.std(correction=0).clamp(min=levels.numel() ** -0.5)
        normalised = (levels - levels.mean()) / deviation
        rows, columns = self.grid(levels.shape[2], levels.shape[1])
        size = (rows * self.size[0], columns * self.size[1])
        return F.interpolate(normalised[None], size, mode="bilinear", antialias=True)[0]
