"""What an index asks of whatever makes vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Space(NamedTuple):
    """Where vectors lie: those of one encoder are near each other for a reason, those of two by chance."""

    encoder: str
    width: int


MINILM = Space("all-MiniLM-L6-v2", 384)


class Encoder(Protocol):
    """Texts to unit vectors `(N, width)`, of which two with like meanings have a high product."""

    space: Space

    def encode(self, texts: Sequence[str]) -> Vectors: ...
