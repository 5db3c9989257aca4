"""A part of the photo hidden, or shown alone: in the memory, at no cost, or in the photo itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from vlm.errors import UserError
from vlm.images import Frame, Preprocess
from vlm.model.memory import Memory

Box = Sequence[float]
"""`(left, top, right, bottom)` in pixels of the upright photo."""

OF_ALL = ("class", "tags")  # segments that tell of the whole photo, and so of what is hidden


class RegionError(UserError):
    """A region that is none, or that cannot be hidden; the message says why."""


def slots_shown(memory: Memory, frame: Frame, box: Box, inside: bool) -> Tensor:
    """The slots of one image that remain `(1, S)` where its patches in a box, or else those outside, alone are shown.

    A patch is where its centre is. Slots that tell of the whole photo, such as a class token or tags, are hidden with
    it. Raises RegionError when nothing would be hidden or left, or when slots are no patches.
    """
    check_box(box, frame)
    image = memory.image
    assert image.grid is not None
    if memory.lift is not None:
        raise RegionError(
            "this model pools patches, so its memory has none to hide; hide them in the photo: pixels=True"
        )
    cells = torch.from_numpy(frame.cells(box, image.grid)).flatten()  # (h * w,)
    if not cells.any():
        raise RegionError("the region holds no patch's centre; give a larger one, or pixels=True")
    shown = memory.real.clone()
    shown[:, image.start : image.stop] &= (cells if inside else ~cells).to(shown.device)
    for segment in memory.segments:
        if segment.name in OF_ALL:
            shown[:, segment.start : segment.stop] = False
    if not shown[:, image.start : image.stop].any():
        raise RegionError("nothing of the photo would be left; give a smaller region to hide")
    return shown


def filled(
    picture: Image.Image, frame: Frame, preprocess: Preprocess, box: Box, inside: bool
) -> Image.Image:
    """The photo with all but a box, or else the box, in the colour that is 0 to the encoder. Raises RegionError."""
    left, top, right, bottom = (round(edge) for edge in check_box(box, frame))
    colour = tuple(round(255 * channel) for channel in preprocess.mean)
    empty = Image.new("RGB", picture.size, colour)
    kept, other = (picture.convert("RGB"), empty) if inside else (empty, picture.convert("RGB"))
    result = other.copy()
    corner = (max(0, left), max(0, top))
    result.paste(
        kept.crop((*corner, min(right, picture.width), min(bottom, picture.height))), corner
    )
    return result


def check_box(box: Box, frame: Frame) -> tuple[float, float, float, float]:
    """A box as numbers. Raises RegionError when it is none, or not on the photo."""
    try:
        left, top, right, bottom = map(float, box)
    except (TypeError, ValueError):
        raise RegionError(f"a region is left, top, right, bottom in pixels, not {box!r}") from None
    if not all(map(math.isfinite, (left, top, right, bottom))) or left >= right or top >= bottom:
        raise RegionError(
            f"a region's left must be less than its right, and its top than its bottom, not {box!r}"
        )
    if right <= 0 or bottom <= 0 or left >= frame.width or top >= frame.height:
        raise RegionError(
            f"the region {box!r} lies beside the photo of {frame.width} x {frame.height} pixels"
        )
    return left, top, right, bottom
