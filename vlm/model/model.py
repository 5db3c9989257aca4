"""Encoder, adapter and decoder as one module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vlm.model.attention import Attention
from vlm.model.config import ConfigError, ModelConfig
from vlm.model.decoder import Decoder, Projected
from vlm.model.grounding import Documents
from vlm.model.joint_reader import JointReader
from vlm.model.likeness import PhotoLikeness
from vlm.model.memory import Memory, Segment, grid_positions, image_memory
from vlm.model.tags import Tagger, Tags
from vlm.model.vision import VisionEncoder

IGNORE_INDEX = -100


class _NothingDrawn(TorchFunctionMode):
    """No initial values: where a tensor has no storage, drawing them does nothing but import torch's compiler."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def _on_meta() -> Iterator[None]:
    with torch.device("meta"), _NothingDrawn():
        yield


class Adapter(nn.Module):
    """Features `(B, N, vision width)` to memory tokens `(B, N, memory width)`; "grid" tells each patch its place.

    With a detail width each patch brings its four cells behind its own channels (see `VisionEncoder`), and the tokens
    are the cells, `(B, 4 N, memory width)`: what a cell shows added to what its patch does.
    """

    def __init__(
        self, kind: str, vision_width: int, memory_width: int, detail_width: int = 0
    ) -> None:
        super().__init__()
        if kind == "none" and vision_width != memory_width:
            raise ConfigError(
                f"adapter.kind none leaves {vision_width} channels, not decoder.memory_width {memory_width}"
            )
        self.kind = kind
        self.vision_width, self.detail_width = vision_width, detail_width
        self.norm = nn.LayerNorm(vision_width) if kind == "grid" else nn.Identity()
        self.project = nn.Identity() if kind == "none" else nn.Linear(vision_width, memory_width)
        if detail_width:
            self.detail_norm = nn.LayerNorm(detail_width)
            self.detail_project = nn.Linear(detail_width, memory_width)

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Memory:
        tokens = self.project(self.norm(features[..., : self.vision_width]))
        if self.detail_width:
            cells = features[..., self.vision_width :].unflatten(-1, (self.detail_width, 2, 2))
            cells = self.detail_project(self.detail_norm(cells.movedim(2, -1)))  # (B, N, 2, 2, M)
            cells = (cells + tokens[:, :, None, None]).unflatten(1, grid)  # (B, h, w, 2, 2, M)
            tokens = cells.transpose(2, 3).flatten(1, 4)  # row by row: (B, h * 2 * w * 2, M)
            grid = (2 * grid[0], 2 * grid[1])
        if self.kind == "grid":
            tokens = tokens + grid_positions(grid, tokens.shape[-1], tokens.device)
        return image_memory(tokens, grid)


class Pooler(nn.Module):
    """Features `(B, N, vision width)` to as many memory tokens as there are queries, `(B, Q, memory width)`.

    Each learned query attends to the features; the memory's `lift` is what it attends to (CoCa, Yu et al. 2022).
    """

    def __init__(self, queries: int, heads: int, vision_width: int, memory_width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, memory_width))
        self.attention = Attention(memory_width, heads, vision_width)
        self.norm = nn.LayerNorm(memory_width)

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Memory:
        queries = self.queries.expand(len(features), -1, -1)
        key_value = self.attention.project(features)
        pooled, _, attention = self.attention(queries, key_value, explicit=True)
        prefix = features.shape[1] - grid[0] * grid[1]
        lift = attention.mean(dim=1)[..., prefix:]  # (B, Q, h * w)
        return Memory(self.norm(pooled), (Segment("image", 0, len(self.queries), grid),), lift=lift)


class Places(nn.Module):
    """Features `(B, N, vision width)` to memory tokens `(B, 1 + N, memory width)`: their mean, and each at its place.

    Rows and columns have learned embeddings, half of the channels each (Florence-2, Xiao et al. 2023).
    """

    def __init__(self, places: int, vision_width: int, memory_width: int) -> None:
        super().__init__()
        half = vision_width // 2
        self.row_embedding = nn.Embedding(places, half)
        self.column_embedding = nn.Embedding(places, vision_width - half)
        self.project = nn.Linear(vision_width, memory_width, bias=False)
        self.norm = nn.LayerNorm(memory_width)

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Memory:
        rows = self.row_embedding.weight[: grid[0], None].expand(*grid, -1)
        columns = self.column_embedding.weight[None, : grid[1]].expand(*grid, -1)
        placed = features + torch.cat([columns, rows], dim=-1).flatten(0, 1)  # (B, N, D)
        tokens = torch.cat([placed.mean(dim=1, keepdim=True), placed], dim=1)
        return image_memory(self.norm(self.project(tokens)), grid)


class VisionLanguageModel(nn.Module):
    """A picture and a prompt to the words that continue the prompt.

    Without `initialise` the text layers' weights are left on the meta device, for `load_state_dict(assign=True)`.
    """

    mean_patches: Tensor | None

    def __init__(
        self, config: ModelConfig, pretrained_vision: bool = False, initialise: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionEncoder(config.vision, pretrained=pretrained_vision)
        memory_width = (config.reader or config.decoder).memory_width
        self.adapter: Adapter | Pooler | Places
        if config.adapter.kind == "pool":
            queries, heads = config.adapter.queries, config.adapter.heads
            self.adapter = Pooler(queries, heads, self.vision.width, memory_width)
        elif config.adapter.kind == "places":
            self.adapter = Places(config.adapter.places, self.vision.width, memory_width)
        else:
            width, detail = self.vision.width, self.vision.detail_width
            self.adapter = Adapter(config.adapter.kind, width, memory_width, detail)
        with nullcontext() if initialise else _on_meta():
            self.tagger = None
            if (tags := config.tags) is not None:
                width, dropout = config.decoder.width, config.decoder.dropout
                self.tagger = Tagger(tags, self.vision.width, width, memory_width, dropout)
            self.documents = None
            if config.documents is not None:
                self.documents = Documents(config.documents, config.decoder)
            mean = None
            if config.mean_patches:  # (N, D)
                width = self.vision.width + 4 * self.vision.detail_width
                mean = torch.zeros(config.mean_patches, width)
            self.register_buffer("mean_patches", mean)
            self.likeness = None if config.verdict is None else PhotoLikeness(memory_width)
            self.reader: Decoder | JointReader | None = None
            if config.reader is not None:
                reads = JointReader if config.reader.slots else Decoder
                self.reader = reads(config.reader)
            self.decoder = Decoder(config.decoder)

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def encode(self, pixels: Tensor) -> Memory:
        """The memory of pixels `(B, 3, H, W)`."""
        return self.remember(*self.vision(pixels))

    def remember(self, patches: Tensor, grid: tuple[int, int], tags: Tags | None = None) -> Memory:
        """The memory of patch features `(B, N, D)` that the encoder gave earlier, with their tags or the given ones."""
        memory = self.adapter(patches, grid)
        if self.tagger is None:
            return memory
        return Memory.concat([memory, self.tagger(patches, self.decoder.token_embedding, tags)])

    def project(self, memory: Memory) -> Projected:
        """An image's keys and values for what attends to it: the reader, where there is one, or the decoder."""
        return (self.decoder if self.reader is None else self.reader).project(memory)

    def read(self, projected: Projected, questions: Sequence[Sequence[int]]) -> Memory:
        """What the reader makes of the ids of questions, `(R, T, D)`, for the decoder to attend to.

        `R` is a multiple of the projection's batch; shorter questions are padded in front, and the padding masked. A
        joint reader's has the image's slots in front, `(R, S + T, D)`. Raises ValueError when the model has no reader.
        """
        if self.reader is None:
            raise ValueError("this model has no reader; a question is a prompt of its decoder")
        length = max(map(len, questions))
        padded = [[0] * (length - len(ids)) + list(ids) for ids in questions]
        sizes = torch.tensor([[len(ids)] for ids in questions], device=self.device)
        valid = torch.arange(length, device=self.device) >= length - sizes  # (R, T)
        ids = torch.tensor(padded, device=self.device)
        if isinstance(self.reader, JointReader):
            return self.reader(ids, projected, valid).memory
        hidden = self.reader(ids, projected, valid=valid).hidden
        return Memory(hidden, (Segment("question", 0, length),), valid)
