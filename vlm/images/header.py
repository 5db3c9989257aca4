"""A question painted above a picture, for models that read it there (Pix2Struct, Lee et al. 2023)."""

from __future__ import annotations

import functools
import logging
import textwrap

from PIL import Image, ImageDraw, ImageFont

log = logging.getLogger(__name__)

SIZE, MARGIN = 36, 5  # pixels: of the letters, and around the text
LINE = 80  # characters

# Arial, in which these models learnt to read questions, and a font of the same measures.
_FONTS = ("Arial.ttf", "Arial.TTF", "arial.ttf", "LiberationSans-Regular.ttf")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def with_header(
    picture: Image.Image, text: str, font: Font | None = None
) -> tuple[Image.Image, float]:
    """A picture (RGB) with a text of black letters on white above it, as wide as the wider of the two.

    Also the header's share of the whole's height. As transformers' processor paints it, in this machine's Arial where
    no `font` is given; see `header_font`.
    """
    header = _painted(text, font or header_font())
    width = max(header.width, picture.width)
    height = int(picture.height * (width / picture.width))
    above = int(header.height * (width / header.width))
    both = Image.new("RGB", (width, above + height), "white")
    both.paste(header.resize((width, above)), (0, 0))
    both.paste(picture.resize((width, height)), (0, above))
    return both, above / (above + height)


@functools.cache
def header_font() -> Font:
    """Arial, or Liberation Sans, which has its measures, or what Pillow has; which is told where it is the last."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, SIZE)
        except OSError:
            continue
    log.warning(
        "questions are painted in Pillow's own font, since neither Arial nor Liberation Sans is installed; "
        "this model learnt to read them in Arial"
    )
    return ImageFont.load_default(SIZE)


def _painted(text: str, font: Font) -> Image.Image:
    """A text in lines of at most `LINE` characters, no wider than it is."""
    lines = "\n".join(textwrap.wrap(text, LINE))
    canvas = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    right, bottom = (int(edge) for edge in canvas.textbbox((0, 0), lines, font=font)[2:])
    header = Image.new("RGB", (right + 2 * MARGIN, bottom + 2 * MARGIN), "white")
    ImageDraw.Draw(header).text((MARGIN, MARGIN), lines, fill="black", font=font)
    return header
