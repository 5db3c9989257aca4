"""Bytes, paths, arrays and PIL images in; pixels and a Frame out. Knows no model."""

from vlm.images.decode import ImageError, ImageSource, load_image
from vlm.images.files import EXTENSIONS, is_image
from vlm.images.frame import Frame, Preprocess

__all__ = [
    "EXTENSIONS",
    "Frame",
    "ImageError",
    "ImageSource",
    "Preprocess",
    "is_image",
    "load_image",
]
