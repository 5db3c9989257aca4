"""A question read together with the image: an encoder over the memory's slots and the question's tokens as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from vlm.model.config import DecoderConfig
from vlm.model.decoder import Projected
from vlm.model.memory import Memory, Segment
from vlm.model.sublayers import Sublayer, norm_layer


@dataclass(frozen=True)
class Read:
    """What a joint reader makes of slots and tokens: a `memory` of both, `(R, S + T, D)`.

    `attention` has one `(R, H, S + T, S + T)` for each layer, when asked, undetached.
    """

    memory: Memory
    attention: tuple[Tensor, ...] = ()


class JointReader(nn.Module):
    """An encoder of `config.slots` slots of a memory and the tokens behind them (BART's, Lewis et al. 2019).

    Slots and tokens attend to each other in one self-attention, so what the decoder attends to depends on the question,
    the image's slots included. Only the encoder of the image is run once an image.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.slot_embedding = nn.Embedding(config.slots, config.width)  # the places of slots
        self.position_embedding = nn.Embedding(config.max_length, config.width)
        norm = partial(norm_layer, config, config.width)
        self.embedding_norm = norm() if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.sublayers = nn.ModuleList(Sublayer(kind, config) for kind in config.sublayers)
        self.final_norm = norm() if config.prenorm else nn.Identity()

    def project(self, memory: Memory) -> Projected:
        """The memory's own tokens: there are no keys and values of them before the question is known."""
        return Projected((), memory.mask, memory.tokens)

    def forward(
        self, ids: Tensor, projected: Projected, valid: Tensor | None = None, explicit: bool = False
    ) -> Read:
        """States of the slots and of `ids` `(R, T)` behind them.

        `R` is a multiple of the memory's batch; rows of one image follow each other. `valid` `(R, T)` is False on
        padding to the left of a question; positions count from its first valid token.
        """
        assert projected.tokens is not None
        rows, images = len(ids), len(projected.tokens)
        slots = projected.tokens + self.slot_embedding.weight  # (B, S, D)
        slots = slots.repeat_interleave(rows // images, dim=0)
        if valid is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        else:
            positions = (valid.cumsum(dim=1) - 1).clamp(min=0)
        real = self._real(projected, valid, ids)
        hidden, attention = self.run(slots, ids, positions, real, explicit)
        count = self.config.slots
        segments = (Segment("image", 0, count), Segment("question", count, hidden.shape[1]))
        return Read(Memory(hidden, segments, real), tuple(attention))

    def run(
        self, slots: Tensor, ids: Tensor, positions: Tensor, real: Tensor | None, explicit: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers over slots `(R, S, D)` and ids `(R, T)`: their states, and the attention of each if `explicit`.

        `real` `(R, S + T)` is True where there is a slot or token to look at; None means everywhere.
        """
        tokens = self.token_embedding(ids) * self.config.embedding_scale
        x = torch.cat([slots, tokens + self.position_embedding(positions)], dim=1)
        x = self.dropout(self.embedding_norm(x))  # (R, S + T, D)
        mask = None if real is None else real[:, None, None, :]
        attention: list[Tensor] = []
        for sublayer in cast("Iterable[Sublayer]", self.sublayers):
            x, _, probabilities = sublayer(x, None, None, mask, explicit)
            if probabilities is not None:
                attention.append(probabilities)
        return self.final_norm(x), attention

    def _real(self, projected: Projected, valid: Tensor | None, ids: Tensor) -> Tensor | None:
        """Which slots and tokens there are, `(R, S + T)`; None for all."""
        if projected.mask is None and (valid is None or bool(valid.all())):
            return None
        slots = projected.mask
        if slots is None:
            slots = torch.ones(1, self.config.slots, dtype=torch.bool, device=ids.device)
        slots = slots.repeat_interleave(len(ids) // len(slots), dim=0)
        return torch.cat([slots, slots.new_ones(ids.shape) if valid is None else valid], dim=1)
