"""The places that a text names, drawn on the photo: a model's own boxes beside its attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from vlm.explain.lettering import text_width, write
from vlm.images import Frame

if TYPE_CHECKING:
    from vlm.boxes import Place

# Okabe and Ito's palette, which colour-blind eyes tell apart, in shades that white letters stand on.
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 128, 96), (170, 68, 128), (120, 90, 0))


def marked(photo: Image.Image, frame: Frame, places: Sequence[Place]) -> Image.Image:
    """A photo, or a map painted on it, in any size, with the outline and the label of each place.

    `frame` is that of the photo whose pixels the places count. Those of one label have one colour.
    """
    if not places:
        return photo
    result = photo.convert("RGB")
    draw = ImageDraw.Draw(result)
    across, down = photo.width / frame.width, photo.height / frame.height
    line, size = max(2, max(photo.size) // 200), max(11, max(photo.size) // 45)
    labels = list(dict.fromkeys(place.label for place in places))
    for place in places:
        colour = COLOURS[labels.index(place.label) % len(COLOURS)]
        corners = [(x * across, y * down) for x, y in place.corners]
        if len(corners) == 2:
            draw.rectangle(_ordered(*corners), outline=colour, width=line)
        else:
            draw.line([*corners, corners[0]], fill=colour, width=line)
    for place in places:  # over the outlines of all
        if not place.label:
            continue
        colour = COLOURS[labels.index(place.label) % len(COLOURS)]
        left, top, _, _ = place.box
        x, y = round(left * across), round(top * down)
        wide = min(text_width(place.label, size) + size, photo.width)
        x = max(0, min(x, photo.width - wide))
        y = max(0, min(y, photo.height - round(1.4 * size)))
        box = (x, y, x + wide, y + round(1.4 * size))
        draw.rectangle(box, fill=colour)
        inside = (x + size // 2, y, x + wide, box[3])
        write(result, inside, place.label, size, (255, 255, 255))
    return result


def _ordered(
    first: tuple[float, float], last: tuple[float, float]
) -> tuple[float, float, float, float]:
    """A rectangle of two corners, whichever the model named first."""
    (x, y), (other_x, other_y) = first, last
    return min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)
