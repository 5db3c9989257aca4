"""Word maps as pictures: a map and the Frame that places it go in, a PIL image comes out. Knows no model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vlm.explain.lettering import (
    FAINT,
    PAPER,
    ROLE_COLOURS,
    draw_legend,
    label,
    legend_height,
    write,
)
from vlm.explain.marked import marked
from vlm.explain.paint import Style, outlined_from, paint
from vlm.images import Frame

if TYPE_CHECKING:
    from vlm.boxes import Place
    from vlm.explain.maps import WordMap

MAX_SIDE = 2048  # pixels; a screen shows no more, and a PNG stays within a few megabytes
CELL = 300  # pixels of a picture's longest side on a sheet
SHOWN = 0.75  # of the peaks of maps on one scale, which ends there
LEAST_PEAK = 2.0  # multiples of even attention: what is nearly even must not look like a peak


def heat(frame: Frame, word: WordMap, size: tuple[int, int] | None = None) -> np.ndarray:
    """A word's attention at each pixel, float32 `(H, W)`, as a multiple of attention spread evenly.

    `size` is the picture's `(width, height)`, by default the original image's. Pixels that the model did not see
    are NaN; `Frame.spread` says how values lie between patches. Raises ValueError when the map is not `(h, w)` shares
    that add up to something.
    """
    values = multiples(word)
    rows, columns = frame.scaled(*(size or (frame.width, frame.height))).spread(values.shape)
    return rows @ values @ columns.T  # (H, h) @ (h, w) @ (w, W)


def overlay(
    image: Image.Image,
    frame: Frame,
    word: WordMap,
    *,
    style: Style = "heat",
    legend: bool = True,
    opacity: float = 0.8,
    places: Sequence[Place] = (),
) -> Image.Image:
    """A word's map over the upright image, in one of `vlm.explain.paint.STYLES`; what was not seen is faded.

    The photo keeps its size, up to `MAX_SIDE` pixels on its longest side. `legend` puts the word above it and the
    scale below; without it the picture is the photo alone. `opacity` in 0..1 is the colour's at the scale's upper end,
    and falls to 0.4 of that where there is no attention; of lines and outlines it is all of theirs. The text's own
    `places`, if any, are drawn over it. Raises StyleError for an unknown style, ValueError when the frame is of another
    image or the map is not one.
    """
    photo = scaled(image, frame, min(1.0, MAX_SIDE / max(image.size)))
    scale = scale_of([word])
    values = heat(frame, word, photo.size)
    painted = marked(paint(photo, values, scale, style, opacity), frame, places)
    if not legend:
        return painted
    text = max(14, max(photo.size) // 40)
    margin, above, below = text // 2, round(2.2 * text), legend_height(cropped(frame), text)
    width = max(photo.width, 19 * text)
    canvas = Image.new("RGB", (width, above + photo.height + below + text // 2), PAPER)
    canvas.paste(painted, ((width - photo.width) // 2, above))
    label(canvas, word.text, word.role, (margin, 0, width - margin, above), round(1.3 * text))
    draw_legend(
        canvas,
        (margin, above + photo.height + margin, width - margin, canvas.height),
        text,
        scale=scale,
        style=style,
        opacity=opacity,
        method=word.method,
        cropped=cropped(frame),
        outlined=outlined_from(values) if style == "outline" else None,
    )
    return canvas


def sheet(
    image: Image.Image,
    frame: Frame,
    maps: Sequence[WordMap],
    *,
    style: Style = "heat",
    opacity: float = 0.8,
    places: Sequence[Place] = (),
    alone: Collection[int] = (),
) -> Image.Image:
    """The photo, and the maps of all words on one scale: a block for each role, its words in order.

    The text's own `places`, if any, are drawn on the photo. The maps at `alone`, of words that language alone wrote,
    are not painted: their photo stays grey, as if they had looked nowhere.

    Raises ValueError when there are no maps, or the frame is of another image; else as `overlay`.
    """
    if not maps:
        raise ValueError("there are no words to show")
    photo = scaled(image, frame, CELL / max(image.size))
    scale = scale_of(maps)
    text, gap = 18, 16
    high = 2 * text  # of a label
    across, down = max(photo.width, 6 * text) + gap, high + photo.height + gap // 2

    blocks: list[tuple[str, list[int | None]]] = [
        (role, list(words)) for role, words in groupby(range(len(maps)), lambda i: maps[i].role)
    ]
    blocks[0][1].insert(0, None)  # the photo itself is the first cell
    grey = photo.convert("L").convert("RGB")
    wide = max(1, round((1.6 * (len(maps) + 1) * down / across) ** 0.5))  # a sheet of about 8 : 5
    longest = max(len(cells) for _, cells in blocks)
    columns = ceil(longest / ceil(longest / wide))  # rows of one length, no word left alone
    rows = sum(ceil(len(cells) / columns) for _, cells in blocks)
    width = gap + max(columns * across, 19 * text)
    height = rows * down + len(blocks) * high + 2 * gap + legend_height(cropped(frame), text)
    canvas = Image.new("RGB", (width, height), PAPER)

    y = gap // 2
    for role, cells in blocks:
        write(canvas, (gap, y, width - gap, y + high), role, text, ROLE_COLOURS[role])
        y += high
        for start in range(0, len(cells), columns):
            for column, cell in enumerate(cells[start : start + columns]):
                x = gap + column * across
                above = (x, y, x + across - gap, y + high)
                if cell is None:
                    write(canvas, above, "photo", text, FAINT)
                    canvas.paste(marked(photo, frame, places), (x, y + high))
                elif cell in alone:
                    write(canvas, above, f"{maps[cell].text} (language alone)", text, FAINT)
                    canvas.paste(grey, (x, y + high))
                else:
                    label(canvas, maps[cell].text, role, above, text)
                    values = heat(frame, maps[cell], photo.size)
                    canvas.paste(paint(photo, values, scale, style, opacity), (x, y + high))
            y += down
    draw_legend(
        canvas,
        (gap, y + gap // 2, width - gap, height),
        text,
        scale=scale,
        style=style,
        opacity=opacity,
        method=maps[0].method,
        cropped=cropped(frame),
    )
    return canvas


def multiples(word: WordMap) -> np.ndarray:
    """The map's shares as multiples of an even share, float32 `(h, w)`. Raises ValueError, see `heat`."""
    weights = word.weights.detach().float().cpu().numpy()
    shares = weights.ndim == 2 and np.isfinite(weights).all() and (weights >= 0).all()
    if not shares or weights.sum() == 0:
        raise ValueError(f"the map of {word.text!r} must be (h, w) shares of at least 0, not all 0")
    return weights / weights.mean()


def scale_of(maps: Sequence[WordMap]) -> float:
    """The upper end of the scale that maps share, in multiples of even attention.

    The highest quarter of their peaks reach beyond it: one sharp map would leave all others dark.
    """
    peaks = [float(multiples(word).max()) for word in maps]
    return max(LEAST_PEAK, float(np.quantile(peaks, SHOWN)))


def scaled(image: Image.Image, frame: Frame, factor: float) -> Image.Image:
    """The image in RGB and another size, itself where it is that. Raises ValueError for a frame of another image."""
    if image.size != (frame.width, frame.height):
        raise ValueError(
            f"the frame is of a {frame.width} x {frame.height} image, not {image.width} x {image.height}"
        )
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def cropped(frame: Frame) -> bool:
    """Whether some pixels of the image were not seen."""
    left, top, right, bottom = (round(edge) for edge in frame.box)
    return left > 0 or top > 0 or right < frame.width or bottom < frame.height
