"""Levels of any depth to 8 bits, and what Pillow would misread set right or refused."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImagePalette
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

# Tags of TIFF 6.0
WIDTH, HEIGHT, BITS, PHOTOMETRIC = 256, 257, 258, 262
PLANES, COLOURS, EXTRA_SAMPLES, SAMPLE_FORMAT = 284, 320, 338, 339

# libtiff gives the byte order of this machine; of these Pillow believes that it is the file's.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}

# A PNG names its transparent level in its own depth, for pixels that Pillow gives with 8 bits.
_TO_8_BITS = {"L;2": lambda v: v * 85, "L;4": lambda v: v * 17, "RGB;16B": lambda v: v >> 8}

# Full scales of levels where a file does not record its own
_SCALES = (255, 2**15 - 1, 2**16 - 1, 2**31, 2**32)


class KindError(ValueError):
    """Levels that would be misread, or are no picture's; the message says what the image "is" or "has"."""


def steer(image: Image.Image) -> None:
    """Set right what Pillow would misread of a file, before it decodes the pixels. Raises KindError where it cannot."""
    if not getattr(image, "tile", None):  # decoded already, or no file at all
        return
    if isinstance(image, TiffImageFile):
        _steer_tiff(image)
    elif isinstance(image, PngImageFile) and "transparency" in image.info:
        level, to_8_bits = image.info["transparency"], _TO_8_BITS.get(str(image.tile[0].args))
        if to_8_bits is not None:
            scaled = tuple(map(to_8_bits, level)) if isinstance(level, tuple) else to_8_bits(level)
            image.info["transparency"] = scaled


def _steer_tiff(image: TiffImageFile) -> None:
    tags, tile = image.tag_v2, image.tile[0]
    bits = max(tags.get(BITS, (1,)))
    planes = tags.get(PLANES, 1) == 2
    rawmode, *other = tile.args if isinstance(tile.args, tuple) else ("",)
    compressed = tile.codec_name == "libtiff"
    if bits == 8 and 2 in tags.get(SAMPLE_FORMAT, ()):
        raise KindError("has signed levels of 8 bits")
    if planes and image.mode in ("LA", "PA", "LAB"):
        raise KindError(f"has the channels of {image.mode} in planes of their own")
    premultiplied = 1 in tags.get(EXTRA_SAMPLES, ())
    if planes and not compressed and (bits == 16 or premultiplied):
        # Pillow takes planes that are not compressed for plain ones of 8 bits, unless libtiff reads them.
        mode = "RGBa" if premultiplied else image.mode
        tile = tile._replace(
            codec_name="libtiff",
            extents=(0, 0, tags[WIDTH], tags[HEIGHT]),
            offset=0,
            args=(f"{mode};16N" if bits == 16 else mode, "raw", False, tags.offset),
        )
        image.tile, image.use_load_libtiff = [tile], True
    elif compressed and rawmode in _NATIVE:
        image.tile = [tile._replace(args=(_NATIVE[rawmode], *other))]
    colours = tags.get(COLOURS, ())
    if image.mode in ("P", "PA") and max(colours, default=0) < 256:
        # Some programs write the colours of a palette, too, in 8 bits; Pillow would make them black.
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def is_deep(image: Image.Image) -> bool:
    """Whether the levels have more than 8 bits, which Pillow's own conversion clips at 255."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_8_bits(image: Image.Image) -> Image.Image:
    """A deep picture with 8 bits, "L" or "LA".

    Of 16 bits, zero is black and 65,535 white; of 32 bits, `in_unit_range` says. Raises KindError, as it does.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = (values >> (4 if tags.get(BITS) == (12,) else 8)).astype(np.uint8)
    else:
        if tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
            values = values.view(np.uint32)  # Pillow has no mode for it
        # Pillow scales a PGM to 16 bits, whatever its own maximum.
        is_scaled = image.mode == "I" and image.format == "PPM"
        unit = values / np.float32(65535) if is_scaled else in_unit_range(values)
        grey = np.rint(unit * 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:
        grey = 255 - grey
    picture = Image.fromarray(grey)
    if image.mode.startswith("I;16") and isinstance(image.info.get("transparency"), int):
        picture.putalpha(Image.fromarray(values != image.info["transparency"]).convert("L"))
    return picture


def in_unit_range(values: np.ndarray) -> np.ndarray:
    """Levels of 32 bits, whole or not, in 0..1, where nothing says which of them is white.

    White is 1 where none is larger; else the full scale in whose upper half the largest level lies, else that level.
    What is no number is black. Raises KindError where there are no levels, or where some lie well below 0.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise KindError("has no level that is a number")
    top = float(values.max(where=finite, initial=0))
    bottom = float(values.min(where=finite, initial=0))
    white = 1 if top <= 1 else next((full for full in _SCALES if full / 2 < top <= full), top)
    if bottom < -white / 20:
        raise KindError(f"has levels from {bottom:g} to {top:g}, and a picture's begin at 0")
    return np.nan_to_num(values / np.float32(white), nan=0, posinf=1, neginf=0).clip(0, 1)
