"""A text's maps as one HTML page that needs no network: words light their patches up, and patches their words."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vlm.explain.overlay import LEAST_PEAK, multiples, scale_of, scaled
from vlm.explain.paint import colour_table
from vlm.images import Frame
from vlm.images.frame import pixel_steps

if TYPE_CHECKING:
    from vlm.explain.maps import WordMap

SIDE = 1280  # pixels of the photo's longer side, at most
HEAT_SIDE = 320  # and of the heatmaps that the page draws


def word_page(
    image: Image.Image, frame: Frame, maps: Sequence[WordMap], alone: Collection[int] = ()
) -> str:
    """The page, about as large as the photo as a JPEG; words at `alone`, which language alone wrote, light nothing up.

    Raises ValueError when there are no maps of one grid.
    """
    if not maps:
        raise ValueError("there are no words to show")
    if len({word.grid for word in maps}) > 1:
        raise ValueError("a page shows maps of one grid")
    photo = scaled(image, frame, min(1.0, SIDE / max(image.size)))
    factor = min(1.0, HEAT_SIDE / max(image.size))
    canvas = frame.scaled(*(max(1, round(side * factor)) for side in image.size))
    down, across = (pixel_steps(shares) for shares in canvas.spread(maps[0].grid))
    left, top, right, bottom = frame.box
    view: dict[str, Any] = {
        "words": [
            {
                "text": word.text,
                "role": word.role,
                "mass": round(word.mass, 4),
                "alone": i in alone,
                "map": [[round(float(share), 3) for share in row] for row in multiples(word)],
            }
            for i, word in enumerate(maps)
        ],
        "method": maps[0].method,
        "scale": round(scale_of(maps), 3),
        "leastPeak": LEAST_PEAK,
        "down": down,
        "across": across,
        # Of the photo's sides, in 0..1; what was not seen of a cropped photo lies outside.
        "box": [left / frame.width, top / frame.height, right / frame.width, bottom / frame.height],
        "colours": np.rint(255 * colour_table()).astype(int).tolist(),
    }
    text = " ".join(word.text for word in maps)
    values = {
        "title": html.escape(text),
        "photo": _data_url(photo),
        "size": f"{photo.width} / {photo.height}",
        # In a script "<" would begin a tag where a word is "</script>".
        "view": json.dumps(view).replace("<", "\\u003c"),
    }
    page = Path(__file__).with_suffix(".html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: values[mark[1]], page)


def _data_url(photo: Image.Image) -> str:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
