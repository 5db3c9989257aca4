"""Captions and answers that show where the model looked, word by word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vlm.answers import Answer
    from vlm.captioner import Captioner
    from vlm.documents_alone import ask_documents
    from vlm.encoded_image import EncodedImage
    from vlm.images import ImageError
    from vlm.loading import load
    from vlm.options import Options

__all__ = ["Answer", "Captioner", "EncodedImage", "ImageError", "Options", "ask_documents", "load"]

_HOMES = {
    "Answer": "vlm.answers",
    "Captioner": "vlm.captioner",
    "EncodedImage": "vlm.encoded_image",
    "ImageError": "vlm.images",
    "Options": "vlm.options",
    "ask_documents": "vlm.documents_alone",
    "load": "vlm.loading",
}


def __getattr__(name: str) -> Any:
    # torch and timm take seconds to load; `import vlm` stays instant and they load at first use.
    if name not in _HOMES:
        raise AttributeError(f"module 'vlm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
