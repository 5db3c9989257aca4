"""Any image source as an upright RGB picture, or one sentence on why not."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vlm.errors import UserError, how_to_install
from vlm.images.depth import KindError, is_deep, steer, to_8_bits
from vlm.images.files import FORMATS
from vlm.images.mend import JPEG, PNG, copies

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

# Above these an image costs gigabytes to decode, or PIL's 32-bit box coordinates go wrong; cameras stay well below.
MAX_PIXELS = 120_000_000
MAX_SIDE = 65_535  # JPEG's own limit

# The entry of `info` by which `load_image` knows what it made (a copy of 48 megapixels takes 192 MB): the format of the
# file, a key of FORMATS, or None.
SOURCE_FORMAT = "vlm source format"

# HEIF is no format of Pillow's own.
_FORMATS = tuple(format for format in FORMATS if format != "HEIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


# The fractions of its size at which a JPEG can be decoded, of which its decoder makes fewer pixels from the beginning.
_DIVISORS = (8, 4, 2)


class ImageError(UserError):
    """The input cannot be read as an image; the message says why in one sentence."""


class _DamageError(ImageError):
    """Pillow gave up on a file that it began to read."""


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Any image source as an upright RGB PIL image; the source is not changed.

    Takes a path, bytes, a PIL image, or an array `(H, W)`, `(H, W, 1|3|4)` of uint8, uint16, bool or floats in 0..1.
    EXIF rotation is applied, transparency is laid on white, higher depths become 8 bits, an animated file gives its
    first frame. What this function made is given back as it is, and anything else as an image of its own. Raises
    ImageError when it is missing, unreadable, no image, truncated, of more than `max_pixels` (up to MAX_PIXELS), or of
    a kind that would be misread.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "the image", max_pixels)
    if isinstance(source, Image.Image):
        if source.mode == "RGB" and SOURCE_FORMAT in source.info:
            return source
        return _to_rgb(source, "the image", max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "the image", max_pixels)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"an image must be a path, bytes, a PIL image or an array, not {type(source).__name__}"
        )
    if isinstance(source, str) and not source:
        raise ImageError("the path of the image is empty")
    if "://" in str(source) and not os.path.exists(source):
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
            return _decode(file, str(path), max_pixels)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class Reduced:
    """A photo decoded at a fraction of its size: upright, RGB, each pixel for `divisor` x `divisor` of the whole.

    `size` is that of the whole photo, upright, and `data` its file. At an edge a pixel may stand for fewer: the whole
    begins at `corner` of the picture.
    """

    picture: Image.Image
    size: tuple[int, int]
    divisor: int
    corner: tuple[float, float]
    data: bytes

    def place(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Where a box of the whole photo lies on the picture."""
        left, top, right, bottom = (edge / self.divisor for edge in box)
        x, y = self.corner
        width, height = self.picture.size  # rounding must not lead out of it
        return left + x, top + y, min(right + x, width), min(bottom + y, height)


def load_reduced(
    source: ImageSource, spare: Callable[[int, int], float], max_pixels: int = MAX_PIXELS
) -> Reduced | None:
    """A file's photo at the least fraction of its size that still has all that is needed, as `load_image` gives it.

    `spare` tells, for the whole photo's width and height, by how much its sides may be divided. None where the file's
    format, its size or its damage leave nothing but `load_image`. Of Pillow's formats JPEG has such fractions; the
    coarse levels of JPEG 2000 hold other pixels than a resized picture.
    """
    data = _bytes_of_jpeg(source)
    if data is None:
        return None
    try:
        image = _open(io.BytesIO(data), "the image")
        _check_size(image, "the image", max_pixels)
        turn = _turn(image)
        size = image.size if turn not in _ON_ITS_SIDE else image.size[::-1]
        divisor = next((d for d in _DIVISORS if d <= spare(*size)), 1)
        least = image.width // divisor, image.height // divisor
        if divisor == 1 or image.draft(None, least) is None:  # type: ignore[func-returns-value]
            return None
        picture = _to_rgb(image, "the image", MAX_PIXELS)
    except ImageError:
        return None
    padding = [part - side / divisor for part, side in zip(picture.size, size)]
    corner = (padding[0] * (turn in _FROM_THE_RIGHT), padding[1] * (turn in _FROM_BELOW))
    return Reduced(picture, size, divisor, corner, data)


def _bytes_of_jpeg(source: ImageSource) -> bytes | None:
    """The bytes of a JPEG file; None for all else."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source) if bytes(source[:2]) == JPEG else None
    if not isinstance(source, (str, os.PathLike)) or not os.path.isfile(source):
        return None
    try:
        with open(source, "rb") as file:
            start = file.read(len(JPEG))
            return start + file.read() if start == JPEG else None
    except OSError:
        return None


def _decode(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    if file.seek(0, io.SEEK_END) == 0:
        raise ImageError(f"{name} is empty (0 bytes)")
    try:
        return _to_rgb(_open(file, name), name, max_pixels)
    except _DamageError as error:
        file.seek(0)
        picture = _mended(file.read(), name, max_pixels)
        if picture is None:
            raise error from None
        return picture


def _mended(data: bytes, name: str, max_pixels: int) -> Image.Image | None:
    """The picture of a file that Pillow refuses but whose pixels are sound, if they are."""
    picture, seen = None, set()
    for copy in copies(data):
        del picture  # before the next is decoded: a photo of 48 megapixels takes 192 MB
        try:
            picture = _to_rgb(_open(io.BytesIO(copy), name), name, max_pixels)
        except _DamageError:
            return None
        seen.add(sha256(picture.tobytes()).digest())
    return picture if len(seen) == 1 else None


def _open(file: BinaryIO, name: str) -> Image.Image:
    """An image whose pixels are not decoded yet."""
    try:
        with warnings.catch_warnings():
            # PIL warns at a limit of its own; ours is checked before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        return _open_other(file, name)
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} is too large: {_limit(MAX_PIXELS)}; make it smaller first"
        ) from None
    except Exception as error:  # damaged headers lead PIL into errors of any type
        raise _damaged(name, error) from None


def _open_other(file: BinaryIO, name: str) -> Image.Image:
    """An image that Pillow alone does not know. Raises ImageError."""
    file.seek(0)
    start = file.read(16)
    file.seek(0)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            needs = "is a HEIC photo, which the package pillow-heif reads"
            raise ImageError(f"{name} {needs}; {how_to_install('heif')}") from None
        try:
            return HeifImageFile(file)
        except Exception as error:
            raise _damaged(name, error) from None
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        kind = "is a TIFF of a kind that cannot be read, or damaged"
        raise ImageError(f"{name} {kind}; save it with 8 bits a channel, or as PNG")
    if start.startswith((PNG, JPEG)):
        raise _damaged(name, None)
    raise ImageError(
        f"{name} is not an image that can be read (JPEG, PNG, WebP, AVIF, HEIC, GIF, TIFF, BMP and some more)"
    )


def _damaged(name: str, error: Exception | None) -> _DamageError:
    said = f"{name} cannot be decoded, it may be damaged or truncated"
    # These have Pillow's words, and others Python's. Some name an object by its address.
    if isinstance(error, (OSError, SyntaxError)):
        reason = " ".join(re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "", str(error)).split())
        said = f"{said}: {reason}" if reason else said
    return _DamageError(said)


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


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    if image.width * image.height > min(max_pixels, MAX_PIXELS) or max(image.size) > MAX_SIDE:
        raise ImageError(
            f"{name} is too large, {image.width:,} x {image.height:,}: {_limit(max_pixels)}; make it smaller first"
        )


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(image, name, max_pixels)
    try:
        steer(image)
        image.load()  # files are decoded here, so here is where a truncated one shows
        turn = _turn(image)
        picture = to_8_bits(image) if is_deep(image) else image
        if turn is not None:
            picture = picture.transpose(turn)
        if image.format == "TGA" and _is_clear(picture):  # a fourth channel that is not used
            picture = picture.convert("RGB")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        if picture is image or picture.mode != "RGB":
            picture = picture.convert("RGB")
    except KindError as error:
        raise ImageError(f"{name} {error}; save it with 8 bits a channel") from None
    except Exception as error:  # decoders raise errors of any type
        raise _damaged(name, error) from None
    # Nothing of the old stays: an orientation would be applied again by the next reader.
    picture.info = {SOURCE_FORMAT: "JPEG" if image.format == "MPO" else image.format}
    return picture


def _limit(max_pixels: int) -> str:
    megapixels = min(max_pixels, MAX_PIXELS) / 1_000_000
    return f"the limit is {megapixels:g} megapixels and {MAX_SIDE:,} pixels a side"


def _is_clear(picture: Image.Image) -> bool:
    return picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (0, 0)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What sets the picture upright, if anything is to be done."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # 1 is upright
    except Exception:  # EXIF that cannot be read says nothing against the pixels
        return None
    return _TO_UPRIGHT.get(orientation)


_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What a turn does to the file's axes: whether width and height change places, and from where it counts the upright
# picture's columns and rows.
_ON_ITS_SIDE = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
_FROM_THE_RIGHT = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
)
_FROM_BELOW = (
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
