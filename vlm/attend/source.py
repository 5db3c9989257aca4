"""What any cross-attention model gives, and how its layers and heads become one map or one row a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vlm.errors import UserError
from vlm.explain.maps import Role, WordMap
from vlm.images import Frame

Grid = tuple[int, int]


class AttendError(UserError):
    """A model, text or word that cannot be looked into; the message says why."""


@dataclass(frozen=True, eq=False)
class Look:
    """What one head, or with `head` None the mean of a layer's heads, does for W words.

    `over` is the grid `(h, w)` of patches, or the S words, that `weights` `(W, h * w)` or `(W, S)` lie on: shares of
    attention, of at least 0.
    """

    layer: int
    head: int | None
    over: Grid | tuple[str, ...]
    weights: Tensor


class Source(Protocol):
    """A model that has run: the W words that are explained, and what its heads did for each of them."""

    @property
    def words(self) -> Sequence[str]: ...

    def looks(self) -> Iterator[Look]: ...


@dataclass(frozen=True, eq=False)
class Alignment:
    """How T words of a target drew on S words of a source: `weights` `(T, S)`, each row of at most 1 together.

    What is missing from a row's sum fell on what is no word, such as the end of the source.
    """

    target: tuple[str, ...]
    source: tuple[str, ...]
    weights: Tensor
    method: str = "attention"

    @property
    def mass(self) -> Tensor:
        """How much of each target word's attention fell on words at all, `(T,)`."""
        return self.weights.sum(dim=1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "source": list(self.source),
            "target": list(self.target),
            "weights": self.weights.tolist(),
            "mass": self.mass.tolist(),
            "method": self.method,
        }


def gather_alignment(
    source: Source, layer: int | None = None, head: int | None = None
) -> Alignment:
    """The mean over layers and heads, or over one `layer` or `head`. Raises AttendError where there is none."""
    looks = _chosen(source, layer, head)
    over = looks[0].over
    weights = torch.stack([look.weights.float().cpu() for look in looks]).mean(dim=0)
    assert all(isinstance(part, str) for part in over)
    return Alignment(tuple(source.words), tuple(map(str, over)), weights)


def gather_maps(
    source: Source, role: Role, layer: int | None = None, head: int | None = None
) -> list[WordMap]:
    """A map for each word on the finest grid, the mean over layers and heads; coarser ones spread as overlays are.

    Raises AttendError where there is no such layer or head, or where a word got no attention at all.
    """
    looks = _chosen(source, layer, head)
    grids = [_grid(look) for look in looks]
    high, wide = max(grids)
    whole = Frame(wide, high, (0.0, 0.0, float(wide), float(high)))
    total = np.zeros((len(source.words), high, wide), dtype=np.float32)
    for look, grid in zip(looks, grids):
        rows, columns = whole.spread(grid)
        total += rows @ look.weights.float().cpu().unflatten(1, grid).numpy() @ columns.T
    maps = []
    for text, summed in zip(source.words, torch.from_numpy(total)):
        if not summed.sum() > 0:
            raise AttendError(f"no attention fell on {text!r}, so it has no map")
        maps.append(WordMap(text, role, summed / summed.sum()))
    return maps


def _chosen(source: Source, layer: int | None, head: int | None) -> list[Look]:
    every = list(source.looks())
    for name, value in (("layer", layer), ("head", head)):
        there = sorted({getattr(look, name) for look in every if getattr(look, name) is not None})
        if value is not None and value not in there:
            known = f"{there[0]} to {there[-1]}" if there else "not told apart"
            raise AttendError(f"there is no {name} {value}; they are {known}")
    return [look for look in every if layer in (None, look.layer) and head in (None, look.head)]


def _grid(look: Look) -> Grid:
    high, wide = look.over
    assert isinstance(high, int)
    assert isinstance(wide, int)
    return high, wide
