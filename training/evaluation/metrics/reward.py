"""CIDEr-D as a reward for self-critical training, fast enough to sit in the training loop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from .tokenize import ptb_tokenize

ORDERS = 4  # n-grams of one to four words
SIGMA = 6.0  # width of the length penalty, in words

Ngram = tuple[str, ...]


class _References(NamedTuple):
    """The references of one image, R of them, as CIDEr-D sees them."""

    counts: dict[Ngram, tuple[int, ...]]  # how often each reference holds the n-gram, (R,)
    norms: list[list[float]]  # of the tf-idf vectors, (ORDERS, R)
    lengths: list[int]  # (R,)


class CiderReward:
    """CIDEr-D with document frequencies computed once, from the training references.

    Calling it with ``B`` image ids (repeats allowed) and ``B`` captions gives float64 rewards
    ``(B,)`` between 0 and 10, the scale of pycocoevalcap and of self-critical training (Rennie et
    al., 2017). Captions are plain text and are tokenised here. Raises ``KeyError`` for an unknown
    image, ``ValueError`` for batches of different lengths, for an image with an empty list of
    references, and for fewer than two images, whose document frequencies would make all rewards 0.
    """

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        if len(references) < 2:
            raise ValueError("CIDEr weighs words by image, so it needs at least two images.")
        for image, texts in references.items():
            if not texts:
                raise ValueError(f"Image {image!r} has no references.")
        words = {
            image: [ptb_tokenize(text) for text in texts] for image, texts in references.items()
        }
        frequency: Counter[Ngram] = Counter()
        for captions in words.values():
            frequency.update({ngram for caption in captions for ngram in _count(caption)})
        # An n-gram that no reference holds weighs as much as one that a single image holds.
        self._rarest = math.log(len(references))
        self._idf = {ngram: self._rarest - math.log(df) for ngram, df in frequency.items()}
        # Equal n-grams and equal counts of different images are one object: half the memory.
        shared: dict[tuple, tuple] = {ngram: ngram for ngram in self._idf}
        self._references = {image: self._vectors(texts, shared) for image, texts in words.items()}

    def __call__(self, image_ids: Sequence[str], captions: Sequence[str]) -> np.ndarray:
        if len(image_ids) != len(captions):
            raise ValueError(f"{len(image_ids)} image ids came with {len(captions)} captions.")
        return np.array(
            [
                self._score(ptb_tokenize(caption), self._references[image])
                for image, caption in zip(image_ids, captions, strict=True)
            ]
        )

    def _vectors(self, words: list[list[str]], shared: dict[tuple, tuple]) -> _References:
        captions = [_count(caption) for caption in words]
        counts = {}
        for ngram in set().union(*captions):
            held = tuple(caption[ngram] for caption in captions)
            counts[shared[ngram]] = shared.setdefault(held, held)
        norms = [[0.0] * len(captions) for _ in range(ORDERS)]
        for index, caption in enumerate(captions):
            for ngram, count in caption.items():
                norms[len(ngram) - 1][index] += (count * self._idf[ngram]) ** 2
        return _References(
            counts,
            norms=[[math.sqrt(square) for square in squares] for squares in norms],
            lengths=[_length(caption) for caption in words],
        )

    def _score(self, words: list[str], references: _References) -> float:
        squares = [0.0] * ORDERS
        dots = [[0.0] * len(references.lengths) for _ in range(ORDERS)]
        for ngram, count in _count(words).items():
            order = len(ngram) - 1
            weight = self._idf.get(ngram, self._rarest) ** 2
            squares[order] += count * count * weight
            for index, shared in enumerate(references.counts.get(ngram, ())):
                if shared:
                    # Clipping keeps repetition from paying: the D of CIDEr-D.
                    dots[order][index] += min(count, shared) * shared * weight

        total = 0.0
        for index, length in enumerate(references.lengths):
            cosine = sum(
                dots[order][index] / (math.sqrt(squares[order]) * references.norms[order][index])
                for order in range(ORDERS)
                if dots[order][index]
            )
            total += cosine * math.exp(-((_length(words) - length) ** 2) / (2 * SIGMA**2))
        return 10 * total / (ORDERS * len(references.lengths))


def _count(words: list[str]) -> Counter[Ngram]:
    orders = (zip(*(words[start:] for start in range(n))) for n in range(1, ORDERS + 1))
    return Counter(chain.from_iterable(orders))


def _length(words: list[str]) -> int:
    # Counted in bigrams, as pycocoevalcap does.
    return max(0, len(words) - 1)
