"""Bytes, paths, arrays and PIL images in; pixels and a Frame out. Knows no model."""

from vlm.images.decode import EXTENSIONS, ImageError, ImageSource, load_image
from vlm.images.frame import Frame, Preprocess

__all__ = ["EXTENSIONS", "Frame", "ImageError", "ImageSource", "Preprocess", "load_image"]
