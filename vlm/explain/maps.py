"""One map for each word of a finished text: where the model looked, by one of several methods, from a second pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vlm.explain.context import context
from vlm.explain.contrast import contrast
from vlm.explain.finished import Finished
from vlm.explain.logit import has_logits, logit
from vlm.explain.method import NO_CHOICE, Choice, Looks, Method, MethodError
from vlm.explain.occlusion import occlusion
from vlm.explain.pixel_occlusion import pixel_occlusion
from vlm.explain.raw_attention import raw_attention
from vlm.explain.relevance import relevance
from vlm.explain.value_norms import value_norms
from vlm.tokenizer import Tokenizer

Role = Literal["caption", "question", "answer", "prompt"]

HEADS = frozenset({"layer", "head", "heads"})

METHODS: dict[str, Method] = {
    "logit": Method(logit, HEADS),
    "attention": Method(raw_attention, HEADS),
    "value": Method(value_norms, HEADS),
    "relevance": Method(relevance, frozenset({"foil"}), gradients=True),
    "occlusion": Method(occlusion),
    "pixels": Method(pixel_occlusion, encodings=True),
    "contrast": Method(contrast, frozenset({"foil"})),
    "context": Method(context, HEADS),
}


@dataclass(frozen=True)
class WordMap:
    """Where one word looked: `weights` `(h, w)` over the image's patches, summing to 1.

    `mass` in 0..1 is how much fell on the patches at all; with next to none the map says little. `elsewhere` is how
    much went to other segments of the memory, by name, such as "class" and "tags". `method` is what made the map.
    """

    text: str
    role: Role
    weights: Tensor
    mass: float = 1.0
    method: str = "attention"
    elsewhere: Mapping[str, float] = field(default_factory=dict, hash=False)

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
            "elsewhere": dict(self.elsewhere),
            "method": self.method,
        }


def word_maps(
    finished: Finished, method: str | None = None, choice: Choice = NO_CHOICE
) -> list[WordMap]:
    """Maps of a caption's words, or of a question's and then its answer's. A word's map is the mean of its tokens'.

    Without a `method` it is `default_method`.

    Raises MethodError when there is no such method, layer or head, or when the method cannot keep to the choice.
    """
    method = method or default_method(finished)
    how = find_method(method, choice)
    of_text, of_question = how.weigh(finished, choice)
    tokenizer, prompt = finished.tokenizer, finished.prompt
    said = of_text.rows(slice(len(prompt.ids), None))
    if finished.question is None:
        return _join(tokenizer, finished.ids, said, "caption", method)
    asked = finished.asked
    of_question = of_text if of_question is None else of_question
    given, words = list(asked.given), [asked.ids[i] for i in asked.given]
    maps = _join(tokenizer, words, of_question.rows(given), "question", method)
    return maps + _join(tokenizer, finished.ids, said, "answer", method)


def default_method(finished: Finished) -> str:
    """What makes a text's maps where nothing else is asked for: the best of the cheap methods that there are for it."""
    alone = finished.projected.grounding is None
    return "logit" if alone and has_logits(finished.model) else "attention"


def find_method(name: str, choice: Choice = NO_CHOICE) -> Method:
    """A method that can keep to a choice. Raises MethodError where there is none."""
    if name not in METHODS:
        raise MethodError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    if deaf := [part for part in choice.given() if part not in METHODS[name].reads]:
        others = [other for other, method in METHODS.items() if deaf[0] in method.reads]
        raise MethodError(f"{name} has no {deaf[0]} to choose; these have: {', '.join(others)}")
    return METHODS[name]


def _join(
    tokenizer: Tokenizer, ids: Sequence[int], by_token: Looks, role: Role, method: str
) -> list[WordMap]:
    """The looks of tokens as maps of words."""
    maps = []
    for word in tokenizer.words(ids):
        own = by_token.rows(list(word.tokens))
        patches = own.patches.mean(dim=0).float().cpu()  # (h, w)
        mass = float(patches.sum())
        # Where nothing fell on patches they are all alike.
        weights = patches / mass if mass > 0 else torch.full_like(patches, 1 / patches.numel())
        elsewhere = {name: float(share.mean()) for name, share in own.others.items()}
        maps.append(WordMap(word.text, role, weights, min(1.0, mass), method, elsewhere))
    return maps
