"""Tables of weights: which of a foreign checkpoint's tensors become which of ours, and how.

A table maps each name of ours to the foreign names that make it. `translate` holds it to account: every foreign
tensor is used or is named as dropped with a reason, and every tensor that the table asks for is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.weights import CheckpointError

Weights = dict[str, Tensor]

# What torch's wrappers of a part of a model put into the middle of names.
_INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGED = "n_averaged"  # the counter of torch's AveragedModel


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


def unwrapped(weights: Weights) -> Weights:
    """The weights under the names that the model itself gave them.

    A training's wrappers put something before every name: `module.` (DataParallel), `_orig_mod.` (torch.compile),
    `model.` (Lightning), `ema.`, or several. No family here has one name before all of its own. Raises
    CheckpointError where two tensors come to the same name.
    """
    names = {name: ".".join(p for p in name.split(".") if p not in _INSIDE) for name in weights}
    names = {name: short for name, short in names.items() if short != _AVERAGED}
    while names and all("." in short for short in names.values()):
        if len({short.split(".")[0] for short in names.values()}) > 1:
            break
        names = {name: short.split(".", 1)[1] for name, short in names.items()}
    plain = {short: weights[name] for name, short in names.items()}
    if len(plain) < len(names):
        twice = [name for name, short in names.items() if list(names.values()).count(short) > 1]
        raise CheckpointError(f"the weights have {some(sorted(twice))}, which are the same")
    return plain


def check_finite(weights: Weights, names: Iterable[str]) -> None:
    """Raise CheckpointError that names a tensor with NaN or infinity in it: its training had diverged."""
    for name in names:
        tensor = weights[name]
        # The extremes are NaN where anything is, and are found thirty times faster than each value is judged.
        if tensor.is_floating_point() and tensor.numel() > 0:
            ends = torch.stack(tensor.aminmax())
            if not ends.isfinite().all():
                raise CheckpointError(
                    f"the weights have NaN or infinity in {name}, as a training leaves that has diverged or overflowed"
                )


def translate(source: Weights, table: Table, dropped: Dropped) -> Weights:
    """Our weights. Raises CheckpointError naming a tensor that is missing, not finite, or that nothing reads."""
    used = {name for entry in table.values() for name in entry.names}
    missing = sorted(used - source.keys())
    if missing:
        raise CheckpointError(f"the weights have no {some(missing)}")
    unread = sorted(
        name
        for name in source.keys() - used
        if not any(re.fullmatch(pattern, name) for pattern in dropped)
    )
    if unread:
        raise CheckpointError(f"the weights have {some(unread)}, which this importer does not know")
    check_finite(source, sorted(used))
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


def some(names: list[str]) -> str:
    """The first of many names, and how many more there are."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
