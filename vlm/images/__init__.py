"""Bytes, paths, arrays and PIL images in; pixels and a Frame out. Knows no model."""

from vlm.images.decode import MAX_PIXELS, ImageError, ImageSource, load_image
from vlm.images.files import EXTENSIONS, is_image
from vlm.images.frame import Frame, Preprocess
from vlm.images.photo import Photo, read_photo

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "Frame",
    "ImageError",
    "ImageSource",
    "Photo",
    "Preprocess",
    "is_image",
    "load_image",
    "read_photo",
]
