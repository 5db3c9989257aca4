"""A photo as the model sees it, decoded no larger than that takes; and the whole of it for those who show it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256

from PIL import Image

from vlm.images.decode import (
    MAX_PIXELS,
    SOURCE_FORMAT,
    ImageSource,
    load_image,
    load_reduced,
)
from vlm.images.frame import Frame, Preprocess


@dataclass(frozen=True)
class Entered:
    """What came in: a file's format, None of what was none, the width and height, upright, and the ms to read it."""

    format: str | None
    size: tuple[int, int]
    read_ms: float


@dataclass(frozen=True, eq=False)
class Photo:
    """What the model sees of a photo, in its own size, where that lies on the whole one, and what it came as."""

    seen: Image.Image
    frame: Frame
    whole: Callable[[], Image.Image]
    entered: Entered

    @cached_property
    def picture(self) -> Image.Image:
        """The whole photo, upright, RGB; where it was read at a fraction of its size, it is decoded now."""
        return self.whole()

    @cached_property
    def sha256(self) -> str:
        """The hash, as 64 hexadecimal digits, of the pixels that the model sees: the same for each copy of a photo."""
        return sha256(self.seen.tobytes()).hexdigest()


def read_photo(source: ImageSource, preprocess: Preprocess, max_pixels: int = MAX_PIXELS) -> Photo:
    """A photo of any source that `load_image` takes; raises ImageError as it does.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, of which twice the model's is left, as
    Pillow's own thumbnails are made. What the model sees is then within one of 255 levels of the whole photo's in the
    mean, and within 8 for 99.5 % of its numbers; the frame is the same. Training and serving both read photos so.
    """
    start = time.perf_counter()
    reduced = load_reduced(source, preprocess.spare, max_pixels)
    whole: Callable[[], Image.Image]
    if reduced is None:
        picture = load_image(source, max_pixels)
        seen, frame = preprocess.view(picture)
        format, whole = picture.info.get(SOURCE_FORMAT), lambda: picture
    else:
        frame = preprocess.frame(*reduced.size)
        seen = preprocess.cut(reduced.picture, reduced.place(frame.box))
        format, whole = "JPEG", partial(load_image, reduced.data)
    ms = (time.perf_counter() - start) * 1000
    return Photo(seen, frame, whole, Entered(format, (frame.width, frame.height), ms))
