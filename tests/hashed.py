"""Vectors of texts in no time, for tests of what is around them: the words of a text, each in a direction by chance."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from vlm.documents.vectors import Space, Vectors


class HashedWords:
    """Texts with the same words have the same vector."""

    space = Space("hashed words", 128)

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.space.width), dtype=np.float32)
        for vector, text in zip(vectors, texts):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                vector += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(
                    self.space.width, dtype=np.float32
                )
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
