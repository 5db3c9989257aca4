"""A target's words against a source's as one picture, and its arrays: the classic grid of translation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vlm.attend.source import Alignment, AttendError
from vlm.explain.lettering import INK, PAPER, draw_legend, legend_height, slanted, text_width, write
from vlm.explain.overlay import LEAST_PEAK
from vlm.explain.paint import heated

CELL, TEXT = 40, 20  # pixels
LONGEST = 200  # pixels that a word may take
ENDINGS = (".png", ".npz")


def check_file(path: Path) -> None:
    """Raises AttendError for a kind of file that there is not."""
    if path.suffix.lower() not in ENDINGS:
        raise AttendError(f"a grid of words goes to a .png or .npz file, not {path.name!r}")


def save_alignment(path: str | os.PathLike[str], alignment: Alignment) -> None:
    """Write a .png, or a .npz of `source`, `target`, `weights` and `mass`. Raises AttendError for another ending."""
    path = Path(path)
    check_file(path)
    if path.suffix.lower() == ".png":
        picture(alignment).save(path, "PNG")
        return
    said = alignment.to_dict()
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: np.array(said[name]) for name in said})  # type: ignore[arg-type]


def picture(alignment: Alignment) -> Image.Image:
    """Rows are the target's words, columns the source's; colours are multiples of an even share of the columns."""
    weights = alignment.weights.numpy()
    multiples = weights * weights.shape[1]
    scale = max(LEAST_PEAK, float(multiples.max()))
    left = 2 * TEXT + min(LONGEST, max(text_width(word, TEXT) for word in alignment.target))
    top = TEXT + max(slanted(word, TEXT, LONGEST).height for word in alignment.source)
    rows, columns = weights.shape
    right, bottom = left + columns * CELL, top + rows * CELL
    width = max(right + LONGEST // 2, left + 19 * TEXT)
    canvas = Image.new("RGB", (width, bottom + TEXT + legend_height(False, TEXT)), PAPER)
    grey = np.full((rows, columns, 1), 0.5, dtype=np.float32)
    cells = np.rint(255 * heated(grey, multiples / scale, 1.0)).astype(np.uint8)
    grid = Image.fromarray(cells).resize((columns * CELL, rows * CELL), Image.Resampling.NEAREST)
    canvas.paste(grid, (left, top))
    draw = ImageDraw.Draw(canvas)
    for column, word in enumerate(alignment.source):
        turned = slanted(word, TEXT, LONGEST)
        place = (left + column * CELL + CELL // 4, top - turned.height - 2)
        canvas.paste(INK, (*place, place[0] + turned.width, place[1] + turned.height), turned)
        draw.line((left + column * CELL, top, left + column * CELL, bottom), PAPER)
    for row, word in enumerate(alignment.target):
        y = top + row * CELL
        wide = min(text_width(word, TEXT), left - 2 * TEXT)
        write(canvas, (left - TEXT // 2 - wide, y, left - TEXT // 2 + 1, y + CELL), word, TEXT, INK)
        draw.line((left, y, right, y), PAPER)
    draw_legend(
        canvas,
        (left, bottom + TEXT, width - TEXT, canvas.height),
        TEXT,
        scale=scale,
        style="heat",
        opacity=1.0,
        method=alignment.method,
        cropped=False,
    )
    return canvas
