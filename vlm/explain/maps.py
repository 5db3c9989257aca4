"""One map for each word of a finished text: where the model looked, by one of several methods, from a second pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.raw_attention import attention_on_patches
from vlm.tokenizer import Tokenizer

Role = Literal["caption", "question", "answer"]

Method = Callable[[Finished, int | None, int | None], tuple[Tensor, Tensor | None]]
"""What each method is: a finished text, a layer and a head (None: all) to weights on the patches.

They are `(T, h, w)` of at least 0 for the tokens of the decoder's prompt and the text, and with a reader, which reads
the question apart, `(Q, h, w)` for those of the question's prompt, else None. What does not lie on patches is missing
from their sum, which is at most 1 for methods that share something out.
"""

METHODS: dict[str, Method] = {"attention": attention_on_patches}


@dataclass(frozen=True)
class WordMap:
    """Where one word looked: `weights` `(h, w)` over the image's patches, summing to 1.

    `mass` in 0..1 is how much fell on the patches at all: the rest went elsewhere, such as to a class token or to
    other segments of the memory, and with next to none the map says little. `method` is what made the map.
    """

    text: str
    role: Role
    weights: Tensor
    mass: float = 1.0
    method: str = "attention"

    @property
    def grid(self) -> tuple[int, int]:
        return self.weights.shape[0], self.weights.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "text": self.text,
            "role": self.role,
            "grid": list(self.grid),
            "map": self.weights.tolist(),
            "mass": self.mass,
            "method": self.method,
        }


def word_maps(
    finished: Finished,
    method: str = "attention",
    layer: int | None = None,
    head: int | None = None,
) -> list[WordMap]:
    """Maps of a caption's words, or of a question's and then its answer's.

    `layer` and `head` pick one cross-attention sublayer and head of the decoder, counted from 0; by default all are
    taken together. A word's map is the mean of its tokens'. Raises ValueError when there is no such method, layer or
    head.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; there are: {', '.join(METHODS)}")
    of_text, of_question = METHODS[method](finished, layer, head)
    tokenizer, prompt = finished.tokenizer, finished.prompt
    said = of_text[len(prompt.ids) :]
    if finished.question is None:
        return _join(tokenizer, finished.ids, said, "caption", method)
    asked = finished.asked
    of_question = of_text if of_question is None else of_question
    given, words = list(asked.given), [asked.ids[i] for i in asked.given]
    maps = _join(tokenizer, words, of_question[given], "question", method)
    return maps + _join(tokenizer, finished.ids, said, "answer", method)


def _join(
    tokenizer: Tokenizer, ids: Sequence[int], by_token: Tensor, role: Role, method: str
) -> list[WordMap]:
    """Maps of tokens `(T, h, w)` as maps of words."""
    maps = []
    for word in tokenizer.words(ids):
        patches = by_token[list(word.tokens)].mean(dim=0).float().cpu()  # (h, w)
        mass = float(patches.sum())
        # Where nothing fell on patches they are all alike.
        weights = patches / mass if mass > 0 else torch.full_like(patches, 1 / patches.numel())
        maps.append(WordMap(word.text, role, weights, min(1.0, mass), method))
    return maps
