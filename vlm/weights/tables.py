"""Tables of weights: which of a foreign checkpoint's tensors become which of ours, and how.

A table maps each name of ours to the foreign names that make it. `translate` holds it to account: every foreign
tensor is used or is named as dropped with a reason, and every tensor that the table asks for is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.weights import CheckpointError

Weights = dict[str, Tensor]


def same(tensor: Tensor) -> Tensor:
    """As it is."""
    return tensor


def stacked(*tensors: Tensor) -> Tensor:
    """One below the other: separate query, key and value projections as one."""
    return torch.cat(tensors)


def transposed(*tensors: Tensor) -> Tensor:
    """From `(in, out)` to `(out, in)`: GPT-2's Conv1D, and matrices that multiply from the right."""
    return torch.cat([tensor.t() for tensor in tensors])


def row(tensor: Tensor) -> Tensor:
    """`(D,)` as `(1, 1, D)`: a token that stands in front of every image's."""
    return tensor.view(1, 1, -1)


def rows(start: int, stop: int | None = None) -> Callable[[Tensor], Tensor]:
    """Some rows of a tensor: a part of what is fused there."""
    return lambda tensor: tensor[start:stop]


@dataclass(frozen=True)
class From:
    """The foreign tensors of one of ours, and the function that makes it of them."""

    names: tuple[str, ...]
    how: Callable[..., Tensor] = same


Table = dict[str, From]

Dropped = Mapping[str, str]
"""Regular expressions of whole foreign names, each with the reason why nothing of ours is made of them."""


def module(ours: str, *theirs: str, how: Callable[..., Tensor] | None = None) -> Table:
    """Weight and bias of a layer; those of several foreign layers are stacked. `how` is for the weight."""
    joined = same if len(theirs) == 1 else stacked
    return {
        f"{ours}.weight": From(tuple(f"{name}.weight" for name in theirs), how or joined),
        f"{ours}.bias": From(tuple(f"{name}.bias" for name in theirs), joined),
    }


def translate(source: Weights, table: Table, dropped: Dropped) -> Weights:
    """Our weights. Raises CheckpointError naming a tensor that is missing, or that nothing reads."""
    used = {name for entry in table.values() for name in entry.names}
    missing = sorted(used - source.keys())
    if missing:
        raise CheckpointError(f"the weights have no {_some(missing)}")
    unread = sorted(
        name
        for name in source.keys() - used
        if not any(re.fullmatch(pattern, name) for pattern in dropped)
    )
    if unread:
        raise CheckpointError(
            f"the weights have {_some(unread)}, which this importer does not know"
        )
    return {
        ours: entry.how(*(source[name] for name in entry.names)) for ours, entry in table.items()
    }


def tied(source: Weights, output: str, embeddings: str) -> bool:
    """Whether an output's weights are the embeddings, and not a table of their own.

    A file may hold either of the two or both; the embeddings are put back where only the output is there.
    """
    if output not in source:
        return True
    return torch.equal(source[output], source.setdefault(embeddings, source[output]))


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
