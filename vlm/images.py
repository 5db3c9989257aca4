"""Images in, pixels and a Frame out: the one place that resizes and crops, so the one that can place a heatmap."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

if TYPE_CHECKING:
    import torch

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

# Above these an image costs gigabytes to decode, or PIL's 32-bit box coordinates go wrong; cameras stay well below.
MAX_PIXELS = 120_000_000
MAX_SIDE = 65_535  # JPEG's own limit
_LIMIT = f"the limit is {MAX_PIXELS // 1_000_000} megapixels and {MAX_SIDE:,} pixels a side"

# PIL opens many more formats, and some of them start other programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
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
        row = int((y - top) / (bottom - top) * grid[0])
        column = int((x - left) / (right - left) * grid[1])
        # Rounding can carry the last of a pixel over the edge.
        return min(row, grid[0] - 1), min(column, grid[1] - 1)


@dataclass(frozen=True)
class Preprocess:
    """From an image to the model's pixels: size, fit, interpolation, mean and deviation, as the encoder was trained.

    `fit` is "squash" (the whole image, aspect ratio not kept) or "crop" (the largest box of the input's shape in the
    middle, rounded to pixels as torchvision's Resize and CenterCrop do). `size` is `(height, width)`; `mean` and `std`
    are for values in 0..1.
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


def load_image(source: ImageSource) -> Image.Image:
    """Any image source as an upright RGB PIL image of its own; the source is not changed.

    Takes a path, bytes, a PIL image, or an array `(H, W)`, `(H, W, 1|3|4)` of uint8, uint16, bool or floats in 0..1.
    EXIF rotation is applied, transparency is laid on white, higher depths become 8 bits, an animated file gives its
    first frame. Raises ImageError when it is missing, unreadable, no image, truncated, or too large.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "the image")
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "the image")
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"an image must be a path, bytes, a PIL image or an array, not {type(source).__name__}"
        )
    if isinstance(source, str) and not source:
        raise ImageError("the path of the image is empty")
    if isinstance(source, str) and "://" in source:
        raise ImageError(f"{source} is an address on the web; save the image in a file first")
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not an image")
        if not path.exists():
            raise ImageError(f"{path}: no such file")
        if not path.is_file():
            raise ImageError(f"{path} is not a regular file; save the image in one first")
        with path.open("rb") as file:
            return _decode(file, str(path))
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from None


def _decode(file: BinaryIO, name: str) -> Image.Image:
    if file.seek(0, io.SEEK_END) == 0:
        raise ImageError(f"{name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # PIL warns at a limit of its own; ours is checked before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not an image that can be read (JPEG, PNG, WebP, GIF, BMP or TIFF)"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} is too large: {_LIMIT}; make it smaller first") from None
    except Exception as error:  # damaged headers lead PIL into errors of any type
        raise _damaged(name, error) from None
    return _to_rgb(image, name)


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name} cannot be decoded, it may be damaged or truncated: {error}")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(
            f"an image array must be (H, W), (H, W, 3) or (H, W, 4), not {array.shape}"
        )
    kind = array.dtype.kind
    if kind == "f":
        # Written so that NaN is refused too.
        if not (array.min() >= 0 and array.max() <= 1):
            raise ImageError("a floating-point image array must hold values in 0..1")
        array = np.rint(array * np.float32(255)).astype(np.uint8)
    elif kind == "b":
        array = array.astype(np.uint8) * 255
    elif kind == "u" and array.dtype.itemsize == 2:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"an image array must be uint8, uint16, bool or float, not {array.dtype}")
    return Image.fromarray(array)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise ImageError(
            f"{name} is too large, {image.width:,} x {image.height:,}: {_LIMIT}; make it smaller first"
        )
    try:
        image.load()  # files are decoded here, so here is where a truncated one shows
        image = _upright(image)
        if image.mode.startswith("I;16"):
            image = _from_array(np.asarray(image))
        elif image.mode in ("I", "F"):
            image = _from_array(_in_unit_range(np.asarray(image)))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
    except Exception as error:  # decoders raise errors of any type
        raise _damaged(name, error) from None
    image.info = {}  # an orientation left behind would be applied again by the next reader
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # 1 is upright
    except Exception:  # EXIF that cannot be read says nothing against the pixels
        return image
    turn = _TO_UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _in_unit_range(values: np.ndarray) -> np.ndarray:
    """One channel of 32 bits in 0..1: its full scale is not recorded, so the least usual one that holds it."""
    values = np.nan_to_num(values.astype(np.float32))
    top = values.max()
    scale = next((usual for usual in (1, 255, 65535) if top <= usual), top)
    return (values / scale).clip(0, 1)
