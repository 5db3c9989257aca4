"""Word maps as pictures: a map and the Frame that places it go in, a PIL image comes out. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm.images import Frame

if TYPE_CHECKING:
    from vlm.explain.maps import WordMap

MAX_SIDE = 2048  # pixels; a screen shows no more, and a PNG stays within a few megabytes
CELL = 300  # pixels of a picture's longest side on a sheet
# Perceptually uniform, and brightness alone carries it, so colour-blind eyes read it too.
COLOURS = "inferno"
LEAST_PEAK = 2.0  # multiples of even attention: what is nearly even must not look like a peak

_PAPER, _INK, _FAINT = (250, 250, 248), (32, 32, 36), (105, 105, 112)
# From Okabe and Ito's palette, which colour-blind eyes tell apart.
_ROLE_COLOURS = {"question": (0, 114, 178), "answer": (213, 94, 0), "caption": (0, 138, 100)}

Box = tuple[int, int, int, int]
"""`(left, top, right, bottom)` in pixels of the canvas."""


def heat(frame: Frame, word: WordMap, size: tuple[int, int] | None = None) -> np.ndarray:
    """A word's attention at each pixel, float32 `(H, W)`, as a multiple of attention spread evenly.

    `size` is the picture's `(width, height)`, by default the original image's. Pixels that the model did not see
    are NaN; `Frame.spread` says how values lie between patches. Raises ValueError when the map is not `(h, w)` shares
    that add up to something.
    """
    multiples = _multiples(word)
    rows, columns = frame.scaled(*(size or (frame.width, frame.height))).spread(multiples.shape)
    return rows @ multiples @ columns.T  # (H, h) @ (h, w) @ (w, W)


def overlay(
    image: Image.Image,
    frame: Frame,
    word: WordMap,
    *,
    legend: bool = True,
    opacity: float = 0.8,
) -> Image.Image:
    """A word's map over the upright image: the photo grey, attention in colour, what was not seen faded.

    The photo keeps its size, up to `MAX_SIDE` pixels on its longest side. `legend` puts the word above it and the
    colour scale below; without it the picture is the photo alone. `opacity` in 0..1 is the colour's at the scale's
    upper end; it falls to 0.4 of that where there is no attention. Raises ValueError when the frame is of another
    image or the map is not one.
    """
    photo = _scaled(image, frame, min(1.0, MAX_SIDE / max(image.size)))
    scale = _scale([word])
    painted = _painted(photo, heat(frame, word, photo.size), scale, opacity)
    if not legend:
        return painted
    text = max(14, max(photo.size) // 40)
    margin, above, below = text // 2, round(2.2 * text), _legend_height(frame, text) + text // 2
    width = max(photo.width, 19 * text)
    canvas = Image.new("RGB", (width, above + photo.height + below), _PAPER)
    canvas.paste(painted, ((width - photo.width) // 2, above))
    _label(canvas, word, (margin, 0, width - margin, above), round(1.3 * text))
    under = (margin, above + photo.height + margin, width - margin, canvas.height)
    _legend(canvas, frame, under, text, scale, opacity, word.method)
    return canvas


def sheet(
    image: Image.Image, frame: Frame, maps: Sequence[WordMap], *, opacity: float = 0.8
) -> Image.Image:
    """The photo, and the maps of all words on one colour scale: a block for each role, its words in order.

    Raises ValueError when there are no maps, or the frame is of another image.
    """
    if not maps:
        raise ValueError("there are no words to show")
    photo = _scaled(image, frame, CELL / max(image.size))
    scale = _scale(maps)
    text, gap = 18, 16
    label = 2 * text
    across, down = max(photo.width, 6 * text) + gap, label + photo.height + gap // 2

    blocks: list[tuple[str, list[WordMap | None]]] = [
        (role, list(words)) for role, words in groupby(maps, key=lambda word: word.role)
    ]
    blocks[0][1].insert(0, None)  # the photo itself is the first cell
    wide = max(1, round((1.6 * (len(maps) + 1) * down / across) ** 0.5))  # a sheet of about 8 : 5
    longest = max(len(cells) for _, cells in blocks)
    columns = ceil(longest / ceil(longest / wide))  # rows of one length, no word left alone
    rows = sum(ceil(len(cells) / columns) for _, cells in blocks)
    width = gap + max(columns * across, 19 * text)
    height = rows * down + len(blocks) * label + 2 * gap + _legend_height(frame, text)
    canvas = Image.new("RGB", (width, height), _PAPER)

    y = gap // 2
    for role, cells in blocks:
        _write(canvas, (gap, y, width - gap, y + label), role, text, _ROLE_COLOURS[role])
        y += label
        for start in range(0, len(cells), columns):
            for column, cell in enumerate(cells[start : start + columns]):
                x = gap + column * across
                above = (x, y, x + across - gap, y + label)
                if cell is None:
                    _write(canvas, above, "photo", text, _FAINT)
                    canvas.paste(photo, (x, y + label))
                else:
                    _label(canvas, cell, above, text)
                    values = heat(frame, cell, photo.size)
                    canvas.paste(_painted(photo, values, scale, opacity), (x, y + label))
            y += down
    under = (gap, y + gap // 2, width - gap, height)
    _legend(canvas, frame, under, text, scale, opacity, maps[0].method)
    return canvas


def _multiples(word: WordMap) -> np.ndarray:
    """The map's shares as multiples of an even share, float32 `(h, w)`."""
    weights = word.weights.detach().float().cpu().numpy()
    shares = weights.ndim == 2 and np.isfinite(weights).all() and (weights >= 0).all()
    if not shares or weights.sum() == 0:
        raise ValueError(f"the map of {word.text!r} must be (h, w) shares of at least 0, not all 0")
    return weights / weights.mean()


def _scale(maps: Sequence[WordMap]) -> float:
    """The colour scale's upper end, in multiples of even attention."""
    peaks = [float(_multiples(word).max()) for word in maps]
    return max(LEAST_PEAK, *peaks)


def _scaled(image: Image.Image, frame: Frame, factor: float) -> Image.Image:
    if image.size != (frame.width, frame.height):
        raise ValueError(
            f"the frame is of a {frame.width} x {frame.height} image, not {image.width} x {image.height}"
        )
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _painted(photo: Image.Image, values: np.ndarray, scale: float, opacity: float) -> Image.Image:
    grey = np.asarray(photo.convert("L"), dtype=np.float32)[..., None] / 255  # (H, W, 1)
    mixed = _mixed(grey, values / scale, opacity)
    mixed = np.where(np.isnan(values)[..., None], 0.2 * grey + 0.7, mixed)
    return Image.fromarray(np.rint(mixed * 255).astype(np.uint8))


def _mixed(grey: np.ndarray, level: np.ndarray, opacity: float) -> np.ndarray:
    """Colours `(H, W, 3)` in 0..1 of a grey picture `(H, W, 1)` under levels `(H, W)` in 0..1."""
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in 0..1, not {opacity}")
    from matplotlib import colormaps

    level = np.nan_to_num(level).clip(0, 1)
    table = colormaps[COLOURS](np.linspace(0, 1, 256))[:, :3].astype(np.float32)
    colour = table[np.rint(level * 255).astype(np.intp)]
    strength = opacity * (0.4 + 0.6 * level[..., None])
    return (1 - strength) * grey + strength * colour


def _legend_height(frame: Frame, text: int) -> int:
    return round((5.2 if _cropped(frame) else 3.8) * text)


def _cropped(frame: Frame) -> bool:
    """Whether some pixels of the image were not seen."""
    left, top, right, bottom = (round(edge) for edge in frame.box)
    return left > 0 or top > 0 or right < frame.width or bottom < frame.height


def _legend(
    canvas: Image.Image,
    frame: Frame,
    box: Box,
    text: int,
    scale: float,
    opacity: float,
    method: str,
) -> None:
    """The colour scale as it looks on middle grey, its values, and what they count."""
    left, top, right, _ = box
    right = min(right, left + 30 * text)
    width, high = right - left, round(0.7 * text)
    levels = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(high, axis=0)
    bar = _mixed(np.full((high, width, 1), 0.5, dtype=np.float32), levels, opacity)
    canvas.paste(Image.fromarray(np.rint(bar * 255).astype(np.uint8)), (left, top))

    draw = ImageDraw.Draw(canvas)
    line, size = top + high, round(0.9 * text)
    even = left + round(width / scale)
    draw.line((even, top, even, line + 3), fill=_INK)
    label = _font(size)
    draw.text((right, line + 3), f"{scale:.1f} ×", _INK, label, anchor="ra")
    draw.text((left, line + 3), "0", _INK, label)
    if even - left > 2 * text:
        draw.text((even, line + 3), "1 ×", _INK, label, anchor="ma")
    line += round(1.4 * text)
    words = (left, line, right, line + round(1.4 * text))
    _write(canvas, words, f"{method} (1 × = spread evenly)", size, _FAINT)
    if _cropped(frame):
        line += round(1.4 * text)
        side = round(0.9 * text)
        draw.rectangle((left, line + 2, left + side, line + side), (204, 204, 204), _FAINT)
        words = (left + round(1.5 * side), line, right, line + round(1.4 * text))
        _write(canvas, words, "not seen by the model", size, _FAINT)


def _label(canvas: Image.Image, word: WordMap, box: Box, size: int) -> None:
    """The word, behind a bar in its role's colour."""
    left, top, right, bottom = box
    bar = max(3, size // 5)
    middle = (top + bottom) // 2
    draw = ImageDraw.Draw(canvas)
    place = (left, middle - size // 2, left + bar, middle + size // 2)
    draw.rectangle(place, _ROLE_COLOURS[word.role])
    _write(canvas, (left + bar + size // 2, top, right, bottom), word.text, size, _INK)


def _write(
    canvas: Image.Image, box: Box, text: str, size: int, colour: tuple[int, int, int]
) -> None:
    """One line, in the middle of the box's height; a long one gets smaller, then loses its end."""
    left, top, right, bottom = box
    room = right - left
    font = _font(size)
    if font.getlength(text) > room:
        font = _font(max(11, int(size * room / font.getlength(text))))
    shown = text
    while font.getlength(shown) > room and len(shown) > 1:
        text = text[:-1]
        shown = text + "…"
    ImageDraw.Draw(canvas).text((left, (top + bottom) // 2), shown, colour, font, anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships: PIL's own default font has no letters beyond English."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
