"""What every method of explaining takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vlm.errors import UserError
from vlm.explain.finished import Finished
from vlm.model.config import DecoderConfig
from vlm.model.memory import Memory

Head = tuple[int, int]
"""A cross-attention sublayer of the decoder and one of its heads, both counted from 0."""


class MethodError(UserError):
    """A method, layer, head or foil that there is not here; the message says which there are."""


@dataclass(frozen=True)
class Choice:
    """What a method is asked to keep to: one layer, one head, some heads, or another word in a word's place."""

    layer: int | None = None
    head: int | None = None
    heads: Sequence[Head] = ()
    foil: str | None = None

    def given(self) -> list[str]:
        """The names of what was chosen."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]


NO_CHOICE = Choice()


@dataclass(frozen=True, eq=False)
class Looks:
    """Where `T` tokens looked: shares of at least 0 on the image's `patches` `(T, h, w)` and on `others`, `(T,)` each.

    `others` are the memory's other segments by name, such as "class" and "tags". All together are at most 1 a token;
    what is missing drew on none of them.
    """

    patches: Tensor
    others: dict[str, Tensor]

    def through(self, weights: Tensor) -> Looks:
        """Where tokens looked that drew on these with `weights` `(R, T)`."""
        patches = (weights @ self.patches.flatten(1)).unflatten(1, self.patches.shape[1:])
        return Looks(patches, {name: weights @ share for name, share in self.others.items()})

    def rows(self, rows: Sequence[int] | slice) -> Looks:
        """Those of some of the tokens."""
        return Looks(self.patches[rows], {name: s[rows] for name, s in self.others.items()})

    def scaled(self, factors: Tensor) -> Looks:
        """All shares of each token times a factor, `(T,)`."""
        others = {name: share * factors for name, share in self.others.items()}
        return Looks(self.patches * factors[:, None, None], others)

    @staticmethod
    def joined(parts: Sequence[Looks]) -> Looks:
        """Those of several texts' tokens, one behind the other."""
        names = parts[0].others
        others = {name: torch.cat([part.others[name] for part in parts]) for name in names}
        return Looks(torch.cat([part.patches for part in parts]), others)


@dataclass(frozen=True)
class Method:
    """How maps are made.

    `weigh` takes a finished text and a choice, and gives looks for the tokens of the decoder's prompt and the text;
    where a reader reads the question apart, also for those of the question's prompt, else None. `reads` names what of a
    choice it can keep to. With `gradients` it needs a model that has them, see `vlm.load`; with `encodings` it encodes
    the image anew for each patch, which takes seconds.
    """

    weigh: Callable[[Finished, Choice], tuple[Looks, Looks | None]]
    reads: frozenset[str] = frozenset()
    gradients: bool = False
    encodings: bool = False


def looks(memory: Memory, weights: Tensor) -> Looks:
    """Shares of a memory's slots `(T, S)`, one image's, as shares of its patches and of its other segments."""
    image = memory.image
    others = memory.shares(weights)
    return Looks(
        memory.on_patches(weights[None])[0],
        {name: share for name, share in others.items() if name != image.name},
    )


def chosen_heads(config: DecoderConfig, choice: Choice) -> list[Head]:
    """The heads that a choice stands for; without one the decoder's alignment heads, or all where it names none.

    Raises MethodError for a layer or head that there is not.
    """
    layers, heads = config.sublayers.count("c"), config.heads
    if choice.heads:
        if choice.layer is not None or choice.head is not None:
            raise MethodError("give heads, or a layer and a head, and not both")
        for layer, head in choice.heads:
            _check("layer", layer, layers)
            _check("head", head, heads)
        return list(choice.heads)
    _check("layer", choice.layer, layers)
    _check("head", choice.head, heads)
    if choice.layer is None and choice.head is None and config.alignment_heads:
        return list(config.alignment_heads)
    return [
        (layer, head)
        for layer in (range(layers) if choice.layer is None else [choice.layer])
        for head in (range(heads) if choice.head is None else [choice.head])
    ]


def _check(name: str, value: int | None, count: int) -> None:
    if value is not None and not 0 <= value < count:
        raise MethodError(f"{name} must be 0 to {count - 1} for this model, not {value}")
