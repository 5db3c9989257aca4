"""Images in, pixels and a Frame out: the one place that resizes and crops, so the one that can place a heatmap."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import torch

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

# Above this an image costs gigabytes to decode; cameras stay well below.
MAX_PIXELS = 120_000_000

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class ImageError(ValueError):
    """The input cannot be read as an image; the message says why in one sentence."""


@dataclass(frozen=True)
class Frame:
    """How the model's input lies on the original, upright image.

    The model saw the box `(left, top, right, bottom)` of an image of `width` x `height` pixels, resized to its
    input size. Patch coordinates are `(row, column)` on a grid `(h, w)` that divides the box evenly.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]

    def patch_box(
        self, row: int, column: int, grid: tuple[int, int]
    ) -> tuple[float, float, float, float]:
        """The patch's `(left, top, right, bottom)` in pixels of the original image."""
        left, top, right, bottom = self.box
        patch_height, patch_width = (bottom - top) / grid[0], (right - left) / grid[1]
        return (
            left + column * patch_width,
            top + row * patch_height,
            left + (column + 1) * patch_width,
            top + (row + 1) * patch_height,
        )

    def patch_at(self, x: float, y: float, grid: tuple[int, int]) -> tuple[int, int] | None:
        """The `(row, column)` of the patch that covers pixel `(x, y)`; None where the model did not look."""
        left, top, right, bottom = self.box
        if not (left <= x < right and top <= y < bottom):
            return None
        return int((y - top) / (bottom - top) * grid[0]), int((x - left) / (right - left) * grid[1])


@dataclass(frozen=True)
class Preprocess:
    """From an image to the model's pixels: size, fit, interpolation, mean and deviation, as the encoder was trained.

    `fit` is "squash" (the whole image, aspect ratio not kept) or "crop" (shortest side resized to
    `size / crop_share`, then the centre). `size` is `(height, width)`; `mean` and `std` are for values in 0..1.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Literal["squash", "crop"] = "squash"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"

    def __post_init__(self) -> None:
        if self.fit not in ("squash", "crop"):
            raise ValueError(f"fit must be squash or crop, not {self.fit!r}")
        if self.interpolation not in ("bilinear", "bicubic", "lanczos"):
            raise ValueError(f"unknown interpolation {self.interpolation!r}")
        if min(self.size) < 1:
            raise ValueError(f"image size must be positive, not {self.size}")

    def frame(self, width: int, height: int) -> Frame:
        """Where the model's input lies on an image of that size."""
        if self.fit == "squash":
            return Frame(width, height, (0.0, 0.0, float(width), float(height)))
        scale = max(self.size[0] / height, self.size[1] / width)
        seen_width, seen_height = self.size[1] / scale, self.size[0] / scale
        left, top = (width - seen_width) / 2, (height - seen_height) / 2
        return Frame(width, height, (left, top, left + seen_width, top + seen_height))

    def __call__(self, image: Image.Image) -> tuple[torch.Tensor, Frame]:
        """Pixels `(3, H, W)`, float32 and normalised, and the Frame that places them on `image` (RGB, upright)."""
        import torch

        height, width = self.size
        frame = self.frame(image.width, image.height)
        resampling = Image.Resampling[self.interpolation.upper()]
        resized = image.resize((width, height), resampling, box=frame.box)
        # A copy, because torch cannot hold PIL's read-only buffer.
        pixels = torch.from_numpy(np.array(resized, dtype=np.uint8)).permute(2, 0, 1)  # (3, H, W)
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        return (pixels.float().div_(255) - mean) / std, frame


def load_image(source: ImageSource) -> Image.Image:
    """Any image source as an upright RGB PIL image.

    Takes a path, bytes, a PIL image, or an array `(H, W)`, `(H, W, 1|3|4)` of uint8, uint16 or floats in 0..1.
    EXIF rotation is applied, transparency is laid on white, 16 bits become 8, an animation gives its first frame.
    Raises ImageError when it is missing, unreadable, truncated or larger than `MAX_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "the image", len(source))
    path = Path(source)
    if not path.exists():
        raise ImageError(f"{path}: no such file")
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not an image")
    try:
        with path.open("rb") as file:
            return _decode(file, str(path), path.stat().st_size)
    except PermissionError:
        raise ImageError(f"{path} cannot be read: permission denied") from None


def _decode(file: io.BufferedIOBase, name: str, size: int) -> Image.Image:
    if size == 0:
        raise ImageError(f"{name} is empty (0 bytes)")
    try:
        image = Image.open(file)
        _check_size(image, name)
        return _to_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not an image in a format that can be read (JPEG, PNG, WebP, ...)"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} has more than {MAX_PIXELS // 1_000_000} megapixels; make it smaller first"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{name} is damaged or truncated: {error}") from None


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {image.width} x {image.height}, more than {MAX_PIXELS // 1_000_000} megapixels; "
            "make it smaller first"
        )


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(
            f"an image array must be (H, W), (H, W, 3) or (H, W, 4), not {array.shape}"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"the image has more than {MAX_PIXELS // 1_000_000} megapixels; make it smaller first"
        )
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError("a floating-point image array must hold values in 0..1")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageError(f"an image array must be uint8, uint16 or float, not {array.dtype}")
    return Image.fromarray(array)


def _to_rgb(image: Image.Image) -> Image.Image:
    if getattr(image, "is_animated", False):
        image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _high_depth_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _high_depth_to_rgb(image: Image.Image) -> Image.Image:
    """One channel of 16 or 32 bits: PIL's own conversion would clip at 255 and give a white picture."""
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if values.max() > 255 else 255.0
    gray = np.clip(values / top * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")
