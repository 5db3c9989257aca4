"""The one owner of resize and crop, so the only one that places a heatmap on a photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from PIL import Image

from vlm.typed import Finite, Limit, Positive, check_fields

if TYPE_CHECKING:
    import torch

Side = Annotated[int, Limit("from 1 to 10,000", lambda value: 1 <= value <= 10_000)]  # pixels
Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]  # Pillow's


@dataclass(frozen=True)
class Frame:
    """How the model's input lies on the original, upright image.

    The model saw the box `(left, top, right, bottom)` of an image of `width` x `height` pixels, resized to its
    input size. A grid of patches divides the box evenly.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]

    def scaled(self, width: int, height: int) -> Frame:
        """The same place on a copy of the image that has `width` x `height` pixels."""
        left, top, right, bottom = self.box
        across, down = width / self.width, height / self.height
        return Frame(width, height, (left * across, top * down, right * across, bottom * down))


@dataclass(frozen=True)
class Preprocess:
    """From an image to the model's pixels: size, fit, interpolation, mean and deviation, as the encoder was trained.

    `fit` is "squash" (the whole image, aspect ratio not kept) or "crop" (the largest box of the input's shape in the
    middle, rounded to pixels as torchvision's Resize and CenterCrop do). `size` is `(height, width)`; `mean` and `std`
    are for values in 0..1. Raises `vlm.typed.FieldError` for a value that a field does not take.
    """

    size: tuple[Side, Side]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    fit: Literal["squash", "crop"] = "squash"
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        check_fields(self)

    def frame(self, width: int, height: int) -> Frame:
        """Where the model's input lies on an image of that size."""
        if self.fit == "squash":
            return Frame(width, height, (0.0, 0.0, float(width), float(height)))
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
        """What the model sees of `image` (RGB, upright), in the input's size; of its own result, an equal picture."""
        height, width = self.size
        resampling = Image.Resampling[self.interpolation.upper()]
        box = self.frame(image.width, image.height).box
        return image.resize((width, height), resampling, box=box)

    def __call__(self, image: Image.Image) -> tuple[torch.Tensor, Frame]:
        """Pixels `(3, H, W)`, float32 and normalised, and the Frame that places them on `image` (RGB, upright)."""
        import torch

        # A copy, because torch cannot hold PIL's read-only buffer.
        resized = np.array(self.resized(image), dtype=np.uint8)
        pixels = torch.from_numpy(resized).permute(2, 0, 1)  # (3, H, W)
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        pixels = (pixels.float().div_(255) - mean) / std
        return pixels, self.frame(image.width, image.height)
