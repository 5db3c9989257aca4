"""A text's maps as frames over time: the photo under each word's map in turn, and the text with that word marked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from vlm.explain.lettering import (
    FAINT,
    PAPER,
    ROLE_COLOURS,
    draw_legend,
    legend_height,
    text_width,
    write,
)
from vlm.explain.overlay import cropped, heat, scale_of, scaled
from vlm.explain.paint import Style, paint
from vlm.images import Frame

if TYPE_CHECKING:
    from vlm.explain.maps import WordMap

SIDE = 800  # pixels of the photo's longer side, at most
WORD_MS, PHOTO_MS = 900, 1500  # how long a word is shown, and the photo alone before the first

Place = tuple[int, int, int, int]


def frames(
    image: Image.Image,
    frame: Frame,
    maps: Sequence[WordMap],
    *,
    style: Style = "heat",
    opacity: float = 0.8,
    alone: Collection[int] = (),
) -> list[Image.Image]:
    """The photo alone, and then under the map of each word, all on one scale; below it the text and the legend.

    At the words of the maps at `alone`, which language alone wrote, it stays grey, and the word is marked in grey.

    Raises what `vlm.explain.overlay.sheet` raises.
    """
    if not maps:
        raise ValueError("there are no words to show")
    photo = scaled(image, frame, min(1.0, SIDE / max(image.size)))
    text = max(15, max(photo.size) // 32)
    margin = text // 2
    width = max(photo.width, 19 * text)
    places = _places(maps, width - 2 * margin, text)
    below = photo.height + margin + places[-1][3] + margin
    empty = Image.new("RGB", (width, below + legend_height(cropped(frame), text) + margin), PAPER)
    scale = scale_of(maps)
    draw_legend(
        empty,
        (margin, below, width - margin, empty.height),
        round(0.8 * text),
        scale=scale,
        style=style,
        opacity=opacity,
        method=maps[0].method,
        cropped=cropped(frame),
    )
    pictures = []
    grey = photo.convert("L").convert("RGB")
    for at in (None, *range(len(maps))):
        canvas = empty.copy()
        seen = photo if at is None else grey
        if at is not None and at not in alone:
            seen = paint(photo, heat(frame, maps[at], photo.size), scale, style, opacity)
        canvas.paste(seen, ((width - photo.width) // 2, 0))
        draw = ImageDraw.Draw(canvas)
        for i, (word, (left, top, right, bottom)) in enumerate(zip(maps, places)):
            box = (
                left + margin,
                top + photo.height + margin,
                right + margin,
                bottom + photo.height + margin,
            )
            if i == at:
                colour = FAINT if i in alone else ROLE_COLOURS[word.role]
                draw.rounded_rectangle(box, text // 4, colour)
            inside = (box[0] + text // 4, box[1], box[2], box[3])
            write(canvas, inside, word.text, text, PAPER if i == at else FAINT)
        pictures.append(canvas)
    return pictures


def save_animation(pictures: Sequence[Image.Image], path: Path) -> None:
    """Frames of `frames` as an animated WebP that repeats."""
    first, *rest = pictures
    first.save(
        path,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=[PHOTO_MS] + [WORD_MS] * len(rest),
        loop=0,
        quality=85,
        method=4,
    )


def _places(maps: Sequence[WordMap], width: int, text: int) -> list[Place]:
    """Where each word stands in lines of some width: `(left, top, right, bottom)`; each role begins a line."""
    high, x, y, role = round(1.6 * text), 0, 0, maps[0].role
    places = []
    for word in maps:
        wide = min(width, text_width(word.text, text) + text // 2)
        if x > 0 and (x + wide > width or word.role != role):
            x, y = 0, y + high
        places.append((x, y, x + wide, y + high))
        x, role = x + wide, word.role
    return places
