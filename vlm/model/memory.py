"""What the decoder cross-attends to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Slots `[start, stop)` of a memory by name, e.g. "image", "class", "tags".

    `grid` is `(h, w)` where they are an image's patches, or draw on them; `words` are what the slots spell where they
    are words, one tuple an image of the batch, and `sure` the token ids of those phrases among them that are sure.
    """

    name: str
    start: int
    stop: int
    grid: tuple[int, int] | None = None
    words: tuple[tuple[str, ...], ...] | None = None
    sure: tuple[tuple[tuple[int, ...], ...], ...] | None = None

    def select(self, images: Sequence[int]) -> Segment:
        """The segment of some images of the batch."""
        words = self.words and tuple(self.words[i] for i in images)
        sure = self.sure and tuple(self.sure[i] for i in images)
        return replace(self, words=words, sure=sure)


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

    def shares(self, attention: Tensor) -> dict[str, Tensor]:
        """How much of an attention over slots `(B, ..., S)` each segment has, `(B, ...)`; they sum to 1."""
        return {s.name: attention[..., s.start : s.stop].sum(dim=-1) for s in self.segments}

    def select(self, rows: Tensor | list[int]) -> Memory:
        """The memory of some images of the batch."""
        rows = torch.as_tensor(rows, device=self.tokens.device)
        segments = tuple(segment.select(rows.tolist()) for segment in self.segments)
        return Memory(
            self.tokens[rows],
            segments,
            None if self.mask is None else self.mask[rows],
            None if self.lift is None else self.lift[rows],
        )

    def before(self, slot: int) -> Memory:
        """The memory without its segments from a slot on."""
        return Memory(
            self.tokens[:, :slot],
            tuple(segment for segment in self.segments if segment.stop <= slot),
            None if self.mask is None else self.mask[:, :slot],
            None if self.lift is None else self.lift[:, :slot],
        )

    @property
    def sure(self) -> list[tuple[tuple[int, ...], ...]]:
        """The phrases, as token ids, that are sure to be in each image and not hidden."""
        found: list[tuple[tuple[int, ...], ...]] = [()] * len(self.tokens)
        for segment in self.segments:
            shown = self.real[:, segment.start : segment.stop].any(dim=1).tolist()
            for image, phrases in enumerate(segment.sure or ()):
                found[image] += phrases if shown[image] else ()
        return found

    @staticmethod
    def concat(parts: Sequence[Memory]) -> Memory:
        """Memories of the same images one behind the other, such as patches and words.

        Raises ValueError when a segment's name is used twice, or more than one has an image.
        """
        names = [segment.name for part in parts for segment in part.segments]
        if len(names) != len(set(names)):
            raise ValueError(f"segments of one memory need names of their own, not {names}")
        segments, start = [], 0
        for part in parts:
            segments += [
                replace(s, start=s.start + start, stop=s.stop + start) for s in part.segments
            ]
            start += part.tokens.shape[1]
        if sum(segment.grid is not None for segment in segments) > 1:
            raise ValueError("a memory holds one image; encode several apart")
        tokens = torch.cat([part.tokens for part in parts], dim=1)
        mask = lift = None
        if any(part.mask is not None for part in parts):
            mask = torch.cat([part.real for part in parts], dim=1)
        if any(part.lift is not None for part in parts):
            patches = next(part.lift.shape[2] for part in parts if part.lift is not None)
            lifts = [
                part.tokens.new_zeros(*part.tokens.shape[:2], patches)
                if part.lift is None
                else part.lift
                for part in parts
            ]
            lift = torch.cat(lifts, dim=1)
        return Memory(tokens, tuple(segments), mask, lift)

    @property
    def real(self) -> Tensor:
        """`mask`, `(B, S)`, also where all slots are real."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)


def word_memory(tokens: Tensor, name: str, words: Sequence[Sequence[str]]) -> Memory:
    """A memory of words: slots `tokens` `(B, S, D)`, and the words that each image's first slots spell.

    An image with fewer words than there are slots has its last ones masked.
    """
    counts = torch.tensor([len(own) for own in words], device=tokens.device)
    mask = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]  # (B, S)
    segment = Segment(name, 0, tokens.shape[1], words=tuple(map(tuple, words)))
    return Memory(tokens, (segment,), mask)


def image_memory(tokens: Tensor, grid: tuple[int, int]) -> Memory:
    """A memory of patches, `tokens` `(B, P + h * w, D)`, with the `P` prefix tokens in front, if any."""
    prefix = tokens.shape[1] - grid[0] * grid[1]
    image = Segment("image", prefix, tokens.shape[1], grid)
    return Memory(tokens, (Segment("class", 0, prefix), image) if prefix else (image,))


def below_header(memory: Memory, header: float, grid: tuple[int, int]) -> Memory:
    """The memory of a picture whose upper share `header` is a text that was painted above the image.

    Slots of the text have a segment of their own, and the others draw on a `grid` `(h, w)` of the image alone, by how
    much of each of its patches they cover: so a photo has one grid, whatever stands above it.
    """
    painted = memory.image.grid
    assert painted is not None
    rows = _covered(painted[0], grid[0], header).to(memory.tokens)
    columns = _covered(painted[1], grid[1], 0.0).to(memory.tokens)
    above = int((rows.sum(dim=1) == 0).sum()) * painted[1]
    segments = (
        Segment("header", 0, above),
        Segment("image", above, painted[0] * painted[1], grid),
    )
    return Memory(memory.tokens, segments, memory.mask, torch.kron(rows, columns)[None])


def _covered(slots: int, cells: int, before: float) -> Tensor:
    """How slots along a side draw on the cells that divide what is behind its share `before`, `(slots, cells)`.

    Those whose centre lies before it draw on none.
    """
    edges = (torch.arange(slots + 1) / slots - before) / (1 - before) * cells
    starts, stops, places = edges[:-1, None], edges[1:, None], torch.arange(cells)
    covered = (stops.minimum(places + 1) - starts.maximum(places)).clamp(min=0)
    covered = covered / covered.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return covered * (starts + stops > 0)


def grid_positions(grid: tuple[int, int], width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sinusoidal positions of a grid's cells, `(h * w, width)`: half the channels for the row, half for the column.

    A coordinate is the cell's centre as a share of the side, so the same place has the same code on every grid
    (after "Attention is all you need", Vaswani et al. 2017, in two dimensions).
    """
    quarter = width // 4
    frequencies = 2 ** torch.linspace(0, 5, quarter, device=device) * torch.pi  # (width / 4,)
    codes = []
    for side in grid:
        centres = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
        angles = centres[:, None] * frequencies
        codes.append(torch.cat([angles.sin(), angles.cos()], dim=-1))  # (side, width / 2)
    rows = codes[0][:, None].expand(*grid, -1)
    columns = codes[1][None].expand(*grid, -1)
    positions = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.nn.functional.pad(positions, (0, width - positions.shape[-1]))
