"""What is written beside painted maps: words in the colours of their roles, and legends in multiples of the average."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm.explain.paint import HELD, Style, contour_colours, contour_levels, heated

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""`(left, top, right, bottom)` in pixels of the canvas."""

PAPER, INK, FAINT = (250, 250, 248), (32, 32, 36), (105, 105, 112)
# From Okabe and Ito's palette, which colour-blind eyes tell apart.
ROLE_COLOURS = {
    "question": (0, 114, 178),
    "answer": (213, 94, 0),
    "caption": (0, 138, 100),
    "prompt": (150, 80, 130),
}


def legend_height(cropped: bool, text: int) -> int:
    """How many pixels `draw_legend` takes under a text of that size."""
    return round((5.2 if cropped else 3.8) * text)


def draw_legend(
    canvas: Image.Image,
    box: Box,
    text: int,
    *,
    scale: float,
    style: Style,
    opacity: float,
    method: str,
    cropped: bool,
    outlined: float | None = None,
) -> None:
    """The scale of values as the style shows them, and what they count; with `cropped` also what was not seen.

    `outlined` is the value that an outline's map has along it, where there is a single one.
    """
    left, top, right, _ = box
    right = min(right, left + 30 * text)
    high, size, row = round(0.7 * text), round(0.9 * text), round(1.4 * text)
    draw = ImageDraw.Draw(canvas)
    line = top + high
    if style == "outline":
        line = top + row
        draw.rounded_rectangle((left, top, left + 2 * row, line - 3), row // 2, (90, 90, 90))
        draw.rounded_rectangle(
            (left + 2, top + 2, left + 2 * row - 2, line - 5), row // 2, (196, 140, 80), "white", 2
        )
        words = f"the least part that holds {HELD:.0%} of the map"
        if outlined is not None:
            words += f": {outlined:.1f} × and more"
        write(canvas, (left + round(2.4 * row), top, right, line), words, size, INK)
        line -= row // 2
    else:
        _draw_scale(canvas, (left, top, right, line), size, scale, style, opacity)
    line += row
    write(canvas, (left, line, right, line + row), f"{method} (1 × = spread evenly)", size, FAINT)
    if cropped:
        line += row
        side = round(0.9 * text)
        draw.rectangle((left, line + 2, left + side, line + side), (204, 204, 204), FAINT)
        words_at = (left + round(1.5 * side), line, right, line + row)
        write(canvas, words_at, "not seen by the model", size, FAINT)


def _draw_scale(
    canvas: Image.Image, box: Box, size: int, scale: float, style: Style, opacity: float
) -> None:
    """A bar from 0 to the scale's end, as heat looks on middle grey or with contours' lines, and its values below."""
    left, top, right, bottom = box
    width, high = right - left, bottom - top
    draw, font = ImageDraw.Draw(canvas), _font(size)
    grey = np.full((high, width, 1), 0.5, dtype=np.float32)
    if style == "heat":
        ramp = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(high, axis=0)
        grey = heated(grey, ramp, opacity)
    bar = np.rint(255 * grey).astype(np.uint8).repeat(3 // grey.shape[2], axis=2)
    canvas.paste(Image.fromarray(bar), (left, top))
    draw.text((right, bottom + 3), f"{scale:.1f} × or more", INK, font, anchor="ra")
    draw.text((left, bottom + 3), "0", INK, font)
    if style == "heat":
        even = left + round(width / scale)
        draw.line((even, top, even, bottom + 3), fill=INK)
        if even - left > 2 * size:
            draw.text((even, bottom + 3), "1 ×", INK, font, anchor="ma")
        return
    free = left + round(1.5 * size)
    levels = contour_levels(scale)
    for level, colour in zip(levels, contour_colours(len(levels))):
        place = left + round(width * level / scale)
        draw.line((place, top, place, bottom - 1), INK, 7)
        draw.line((place, top, place, bottom - 1), tuple(int(255 * part) for part in colour), 4)
        if free < place < right - 3.5 * size:
            draw.text((place, bottom + 3), f"{level:g} ×", INK, font, anchor="ma")
            free = place + round(2.5 * size)


def label(canvas: Image.Image, text: str, role: str, box: Box, size: int) -> None:
    """A word, behind a bar in its role's colour."""
    left, top, right, bottom = box
    bar = max(3, size // 5)
    middle = (top + bottom) // 2
    place = (left, middle - size // 2, left + bar, middle + size // 2)
    ImageDraw.Draw(canvas).rectangle(place, ROLE_COLOURS[role])
    write(canvas, (left + bar + size // 2, top, right, bottom), text, size, INK)


def write(canvas: Image.Image, box: Box, text: str, size: int, colour: Colour) -> None:
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


def text_width(text: str, size: int) -> int:
    """Pixels that a line takes."""
    return round(_font(size).getlength(text))


def slanted(text: str, size: int, longest: int) -> Image.Image:
    """How much of each pixel a line covers that rises to the right ("L"); one longer than `longest` loses its end."""
    shown = text
    while text_width(shown, size) > longest and len(text) > 1:
        text = text[:-1]
        shown = text + "…"
    cover = Image.new("L", (max(1, text_width(shown, size)), round(1.4 * size)))
    ImageDraw.Draw(cover).text((0, round(1.1 * size)), shown, 255, _font(size), anchor="ls")
    return cover.rotate(50, Image.Resampling.BICUBIC, expand=True)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships: PIL's own default font has no letters beyond English."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
