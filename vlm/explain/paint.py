"""A photo under a map's values at each pixel, in one of several styles. Knows neither words nor models."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from PIL import Image

from vlm.errors import UserError

Style = Literal["heat", "contour", "outline"]
STYLES: tuple[Style, ...] = get_args(Style)

# Perceptually uniform, and brightness alone carries it, so colour-blind eyes read it too.
COLOURS = "inferno"
HELD = 0.5  # the share of a map that an outline holds
STRIP = 32  # rows painted together, which stay in the processor's cache

_UNSEEN = 255  # in place of a level, which is 0..254


class StyleError(UserError):
    """A style that there is not; the message says which there are."""


def check_style(style: str, opacity: float = 1.0) -> None:
    """Raises StyleError for a style that there is not, ValueError for an opacity that is none."""
    if style not in STYLES:
        raise StyleError(f"there is no style {style!r}; there are: {', '.join(STYLES)}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in 0..1, not {opacity}")


def paint(
    photo: Image.Image, values: np.ndarray, scale: float, style: Style, opacity: float
) -> Image.Image:
    """The photo (RGB) under values `(H, W)` of its pixels in multiples of the average; NaN where nothing was seen.

    "heat" lays colours over a grey photo, the more opaque the higher the value, up to `scale`. "contour" draws a line
    at each of `contour_levels`, "outline" one around the least part that holds half of the map, and fades the rest.
    `opacity` in 0..1 is that of the colours, the lines or the fading. Raises what `check_style` raises.
    """
    check_style(style, opacity)
    if style == "heat":
        return _heated(np.asarray(photo.convert("L")), values, scale, opacity)
    grey = photo.convert("L")
    slope = _slope(values)
    width = max(1.5, max(photo.size) / 300)
    if style == "contour":
        pixels = np.array(photo)  # (H, W, 3)
        levels = contour_levels(scale)
        for level, colour in zip(levels, contour_colours(len(levels))):
            _draw_line(pixels, values, slope, level, 255 * colour, width, opacity)
    else:
        level = outlined_from(values)
        pale = grey.point([round(0.6 * value + 38) for value in range(256)]).convert("RGB")
        rest = Image.fromarray(values < level)
        pixels = np.array(Image.composite(Image.blend(photo, pale, opacity), photo, rest))
        _draw_line(pixels, values, slope, level, np.full(3, 255.0), width, opacity)
    unseen = np.isnan(values)
    pixels[unseen] = 255 * faded(np.asarray(grey)[unseen][:, None] / 255)
    return Image.fromarray(pixels)


def heated(grey: np.ndarray, level: np.ndarray, opacity: float) -> np.ndarray:
    """Colours `(..., 3)` in 0..1 of grey `(..., 1)` under levels `(...)` in 0..1: the higher, the more opaque."""
    strength = opacity * (0.4 + 0.6 * level[..., None])
    return (1 - strength) * grey + strength * colours(level)


def colours(level: np.ndarray) -> np.ndarray:
    """The colour map's colours `(..., 3)` in 0..1 of levels `(...)` in 0..1."""
    return colour_table()[np.rint(255 * level).astype(np.intp)]


@lru_cache(maxsize=1)
def colour_table() -> np.ndarray:
    """The colour map, `(256, 3)` in 0..1."""
    from matplotlib import colormaps

    return colormaps[COLOURS](np.linspace(0, 1, 256))[:, :3].astype(np.float32)


def faded(grey: np.ndarray) -> np.ndarray:
    """What the model did not see, of its grey in 0..1."""
    return 0.2 * grey + 0.7


def contour_levels(scale: float) -> list[float]:
    """The multiples of the average at which lines are drawn: doubles of 1 below the scale's end, the last four."""
    levels = [1.0]
    while 2 * levels[-1] < scale:
        levels.append(2 * levels[-1])
    return levels[-4:]


def contour_colours(count: int) -> np.ndarray:
    """Colours of so many lines in 0..1, `(count, 3)`; none is so dark as to be lost in its dark edges."""
    return colours(np.linspace(0.45, 1, count))


def outlined_from(values: np.ndarray) -> float:
    """The value from which on pixels belong to the least part of a picture that holds half of a map `(H, W)`."""
    top = float(np.nanmax(values))
    levels = _levels(values, top)
    held = np.bincount(levels.ravel(), minlength=256)[:_UNSEEN] * np.arange(_UNSEEN)
    from_top = held[::-1].cumsum()
    return top * (_UNSEEN - 1.5 - int(np.searchsorted(from_top, HELD * from_top[-1]))) / 254


def _levels(values: np.ndarray, scale: float) -> np.ndarray:
    """Values as whole levels of 0..254, uint8 `(H, W)`, with `_UNSEEN` for NaN."""
    level = values * np.float32(254 / scale)
    np.minimum(level, _UNSEEN - 1, out=level)  # a scale may end below the highest value
    np.fmin(level, _UNSEEN, out=level)  # which is what fmin makes of NaN
    level += 0.5
    return level.astype(np.uint8)


@lru_cache(maxsize=4)
def _heat_table(opacity: float) -> np.ndarray:
    """What a pixel becomes, by its grey and its level: RGBX, `(65536,)` of four bytes each."""
    grey = np.arange(256, dtype=np.float32)[:, None, None] / 255  # (256, 1, 1)
    level = np.arange(255, dtype=np.float32) / 254
    table = np.zeros((256, 256, 4), dtype=np.uint8)
    table[:, :_UNSEEN, :3] = np.rint(255 * heated(grey, level, opacity))
    table[:, _UNSEEN, :3] = np.rint(255 * faded(grey[:, 0]))
    return table.view(np.uint32).ravel()


def _heated(grey: np.ndarray, values: np.ndarray, scale: float, opacity: float) -> Image.Image:
    """Grey pixels `(H, W)` under the colours of their values."""
    table = _heat_table(opacity)
    pixels = np.empty(values.shape, dtype=np.uint32)
    for top in range(0, len(values), STRIP):
        rows = slice(top, top + STRIP)
        index = grey[rows].astype(np.uint16) << 8 | _levels(values[rows], scale)
        pixels[rows] = table[index]
    size = values.shape[1], values.shape[0]
    return Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1).convert("RGB")


def _draw_line(
    pixels: np.ndarray,
    values: np.ndarray,
    slope: np.ndarray,
    level: float,
    colour: np.ndarray,
    width: float,
    opacity: float,
) -> None:
    """Draw a line, dark at its edges, where values pass a level, into pixels `(H, W, 3)`.

    How far a pixel is from the line follows from its value and the slope there. A plain at the level has no line.
    """
    reach = slope * (width / 2 + 2)
    near = np.nonzero(
        (np.abs(values - level) < reach) & (slope > 1e-6)
    )  # n pixels; NaN is not near
    distance = np.abs(values[near] - level) / slope[near]  # (n,)
    mixed = pixels[near].astype(np.float32)  # (n, 3)
    for wide, ink, cover in ((width + 2.5, np.zeros(3), 0.6 * opacity), (width, colour, opacity)):
        covered = cover * (wide / 2 + 0.5 - distance).clip(0, 1)[:, None]
        mixed = (1 - covered) * mixed + covered * ink
    pixels[near] = np.rint(mixed)


def _slope(values: np.ndarray) -> np.ndarray:
    """How fast values `(H, W)` change from pixel to pixel; 0 along a side of a single pixel."""
    down, across = (
        np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values)
        for axis in (0, 1)
    )
    return np.sqrt(down * down + across * across)
