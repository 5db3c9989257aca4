"""What the decoder cross-attends to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Slots `[start, stop)` of a memory, e.g. "image"; `grid` `(h, w)` where they are patches, or draw on some."""

    name: str
    start: int
    stop: int
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Memory:
    """Slots that a decoder attends to.

    `tokens` is `(B, S, D)`; `mask` `(B, S)` is True where a slot is real (None: all are). `lift` `(B, S, P)` says
    how each slot draws on the `P` patches of the image segment; None means that the slots of that segment are
    the patches themselves.
    """

    tokens: Tensor
    segments: tuple[Segment, ...]
    mask: Tensor | None = None
    lift: Tensor | None = None

    @property
    def image(self) -> Segment:
        """The segment that has a grid. Raises ValueError when none has."""
        for segment in self.segments:
            if segment.grid is not None:
                return segment
        raise ValueError("this memory holds no image")

    def on_patches(self, attention: Tensor) -> Tensor:
        """Attention over slots `(B, ..., S)` as weights on the image's patches `(B, ..., h, w)`.

        Slots that draw on no patch keep their weight, so the result sums to at most 1.
        """
        segment = self.image
        assert segment.grid is not None
        if self.lift is None:
            patches = attention[..., segment.start : segment.stop]
        else:
            lift = self.lift
            while lift.ndim < attention.ndim:
                lift = lift.unsqueeze(1)
            patches = attention @ lift
        return patches.unflatten(-1, segment.grid)

    def select(self, rows: Tensor | list[int]) -> Memory:
        """The memory of some images of the batch."""
        rows = torch.as_tensor(rows, device=self.tokens.device)
        return Memory(
            self.tokens[rows],
            self.segments,
            None if self.mask is None else self.mask[rows],
            None if self.lift is None else self.lift[rows],
        )


def image_memory(tokens: Tensor, grid: tuple[int, int]) -> Memory:
    """A memory of patches, `tokens` `(B, P + h * w, D)`, with the `P` prefix tokens in front, if any."""
    prefix = tokens.shape[1] - grid[0] * grid[1]
    image = Segment("image", prefix, tokens.shape[1], grid)
    return Memory(tokens, (Segment("class", 0, prefix), image) if prefix else (image,))


def grid_positions(grid: tuple[int, int], width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sinusoidal positions of a grid's cells, `(h * w, width)`: half the channels for the row, half for the column.

    A coordinate is the cell's centre as a share of the side, so the same place has the same code on every grid
    (after "Attention is all you need", Vaswani et al. 2017, in two dimensions).
    """
    quarter = width // 4
    frequencies = 2 ** torch.linspace(0, 5, quarter, device=device) * torch.pi  # (width / 4,)
    codes = []
    for side in grid:
        centres = (torch.arange(side, device=device) + 0.5) / side
        angles = centres[:, None] * frequencies
        codes.append(torch.cat([angles.sin(), angles.cos()], dim=-1))  # (side, width / 2)
    rows = codes[0][:, None].expand(*grid, -1)
    columns = codes[1][None].expand(*grid, -1)
    positions = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.nn.functional.pad(positions, (0, width - positions.shape[-1]))
