"""Any image source as an upright RGB picture, or one sentence on why not."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vlm.errors import UserError

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

# Above these an image costs gigabytes to decode, or PIL's 32-bit box coordinates go wrong; cameras stay well below.
MAX_PIXELS = 120_000_000
MAX_SIDE = 65_535  # JPEG's own limit
_LIMIT = f"the limit is {MAX_PIXELS // 1_000_000} megapixels and {MAX_SIDE:,} pixels a side"

# PIL opens many more formats, and some of them start other programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class ImageError(UserError):
    """The input cannot be read as an image; the message says why in one sentence."""


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
