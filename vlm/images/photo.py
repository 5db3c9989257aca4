"""A photo as the model sees it, decoded no larger than that takes; and the whole of it for those who show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from PIL import Image

from vlm.images.decode import MAX_PIXELS, ImageSource, load_image, load_reduced
from vlm.images.frame import Frame, Preprocess


@dataclass(frozen=True, eq=False)
class Photo:
    """What the model sees of a photo, in its own size, and where that lies on the whole one."""

    seen: Image.Image
    frame: Frame
    whole: Callable[[], Image.Image]

    @cached_property
    def picture(self) -> Image.Image:
        """The whole photo, upright, RGB; where it was read at a fraction of its size, it is decoded now."""
        return self.whole()


def read_photo(source: ImageSource, preprocess: Preprocess, max_pixels: int = MAX_PIXELS) -> Photo:
    """A photo of any source that `load_image` takes; raises ImageError as it does.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, of which twice the model's is left, as
    Pillow's own thumbnails are made. What the model sees is then within one of 255 levels of the whole photo's in the
    mean, and within 8 for 99.5 % of its numbers; the frame is the same. Training and serving both read photos so.
    """
    reduced = load_reduced(source, preprocess.spare, max_pixels)
    if reduced is None:
        picture = load_image(source, max_pixels)
        return Photo(
            preprocess.resized(picture),
            preprocess.frame(picture.width, picture.height),
            lambda: picture,
        )
    frame = preprocess.frame(*reduced.size)
    seen = preprocess.cut(reduced.picture, reduced.place(frame.box))
    return Photo(seen, frame, partial(load_image, reduced.data))
