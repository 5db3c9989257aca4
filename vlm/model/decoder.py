"""Ids and a memory to next-token logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.model.attention import Attention, KeyValue, causal_mask
from vlm.model.config import Activation, DecoderConfig
from vlm.model.memory import Memory

Cache = tuple[KeyValue, ...]
"""Keys and values of the tokens so far, one entry a self-attention sublayer, each `(R, H, T, D / H)`."""


@dataclass(frozen=True)
class Projected:
    """A memory's keys and values for each cross-attention sublayer, made once an image."""

    layers: Cache
    mask: Tensor | None  # (B, S), True where a slot is real

    def select(self, rows: Tensor) -> Projected:
        """The projection of some images of the batch."""
        # index_select, whose gradient adds whole rows; that of indexing adds number by number.
        layers = tuple(
            (keys.index_select(0, rows), values.index_select(0, rows))
            for keys, values in self.layers
        )
        return Projected(layers, None if self.mask is None else self.mask[rows])


@dataclass(frozen=True)
class Decoded:
    """What a pass gives: hidden states `(R, T, D)`, the grown cache, and when asked, cross-attention.

    `cross_attention` has one `(R, H, T, S)` for each cross-attention sublayer, undetached.
    """

    hidden: Tensor
    cache: Cache
    cross_attention: tuple[Tensor, ...] = ()


class Sublayer(nn.Module):
    """Self-attention (`s`), cross-attention (`c`) or MLP (`m`), with its norm and residual."""

    def __init__(self, kind: str, config: DecoderConfig) -> None:
        super().__init__()
        self.kind = kind
        self.prenorm = config.prenorm
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        source_width = config.memory_width if kind == "c" else config.width
        self.memory_norm: nn.Module = nn.Identity()
        if kind == "c" and config.memory_norm:
            self.memory_norm = nn.LayerNorm(config.memory_width, eps=config.norm_eps)
        self.body: Attention | MLP = (
            MLP(config) if kind == "m" else Attention(config.width, config.heads, source_width)
        )

    def residual(self, x: Tensor, change: Tensor) -> Tensor:
        x = x + self.dropout(change)
        return x if self.prenorm else self.norm(x)

    def enter(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.prenorm else x


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.mlp_ratio)
        self.rise = nn.Linear(config.width, hidden)
        self.activation = _activation(config.activation)
        self.fall = nn.Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fall(self.activation(self.rise(x)))


class Decoder(nn.Module):
    """A transformer that cross-attends to a memory."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding: nn.Module = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.max_length, config.width)
        norm = partial(nn.LayerNorm, config.width, eps=config.norm_eps)
        self.embedding_norm = norm() if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.sublayers = nn.ModuleList(Sublayer(kind, config) for kind in config.sublayers)
        self.final_norm = norm() if config.prenorm else nn.Identity()
        self.head_transform: nn.Module = nn.Identity()
        if config.head_transform:
            dense = nn.Linear(config.width, config.width)
            self.head_transform = nn.Sequential(dense, _activation(config.activation), norm())
        self.head: nn.Module | None = None
        if not config.tied:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.apply(partial(_initialise, depth=len(self.sublayers)))

    @property
    def device(self) -> torch.device:
        return self.position_embedding.weight.device

    def fuse(self) -> None:
        """Fuse all self-attention, in place, for inference; see `Attention.fuse`."""
        for sublayer in self._sublayers():
            if isinstance(sublayer.body, Attention) and sublayer.kind == "s":
                sublayer.body.fuse()

    def project(self, memory: Memory) -> Projected:
        """Cross keys and values of every layer, `(B, H, S, D / H)`."""
        layers: list[KeyValue] = []
        for sublayer in self._sublayers():
            if isinstance(sublayer.body, Attention) and sublayer.kind == "c":
                keys, values = sublayer.body.project(sublayer.memory_norm(memory.tokens))
                # Every later token reads all of them: each head's lie side by side.
                layers.append((keys.contiguous(), values.contiguous()))
        return Projected(tuple(layers), memory.mask)

    def forward(
        self,
        ids: Tensor,
        projected: Projected,
        cache: Cache | None = None,
        valid: Tensor | None = None,
        explicit: bool = False,
    ) -> Decoded:
        """Hidden states of `ids` `(R, T)`, which continue the `P` tokens of `cache`.

        `R` is a multiple of the memory's batch; rows of one image follow each other. `valid` `(R, P + T)` is
        False on padding to the left of a prompt; positions count from the first valid token.
        """
        length = ids.shape[1]
        past = 0 if not cache else cache[0][0].shape[2]
        if past + length > self.config.max_length:
            raise ValueError(
                f"{past + length} tokens are more than the decoder's {self.config.max_length}"
            )
        if valid is None:
            positions = torch.arange(past, past + length, device=ids.device)
        else:
            positions = (valid.cumsum(dim=1) - 1).clamp(min=0)[:, past:]
        self_mask = self._self_mask(length, past, valid, ids.device)
        cross_mask = None if projected.mask is None else projected.mask[:, None, None, :]
        return self.compute(
            ids, positions, projected.layers, cache or (), self_mask, cross_mask, explicit
        )

    def compute(
        self,
        ids: Tensor,
        positions: Tensor,
        cross_layers: Cache,
        cache: Cache,
        self_mask: Tensor | None,
        cross_mask: Tensor | None,
        explicit: bool,
    ) -> Decoded:
        """What `forward` gives, of tensors alone.

        `positions` are `(T,)` or `(R, T)`; masks are True where a query may look, and broadcast to
        `(R, H, T, P + T)` and `(B, H, n * T, S)`.
        """
        x = self.token_embedding(ids) * self.config.embedding_scale  # (R, T, D)
        x = self.dropout(self.embedding_norm(x + self.position_embedding(positions)))
        cross, past = iter(cross_layers), iter(cache)
        grown: list[KeyValue] = []
        cross_attention: list[Tensor] = []
        for sublayer in self._sublayers():
            entered = sublayer.enter(x)
            if isinstance(sublayer.body, MLP):
                change = sublayer.body(entered)
            elif sublayer.kind == "s":
                change, key_value = sublayer.body.look_back(
                    entered, next(past, None), self_mask, explicit
                )
                grown.append(key_value)
            else:
                change, attention = sublayer.body(entered, next(cross), cross_mask, explicit)
                if attention is not None:
                    cross_attention.append(attention)
            x = sublayer.residual(x, change)
        return Decoded(self.final_norm(x), tuple(grown), tuple(cross_attention))

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits `(..., V)` of hidden states `(..., D)`."""
        hidden = self.head_transform(hidden)
        if self.head is None:
            return F.linear(hidden, cast("Tensor", self.token_embedding.weight), self.head_bias)
        logits = self.head(hidden)
        return logits if self.head_bias is None else logits + self.head_bias

    def searching(self) -> AbstractContextManager[Any]:
        """To be entered by a search: what its own operations need beside this decoder's."""
        return nullcontext()

    def _sublayers(self) -> Iterator[Sublayer]:
        return iter(cast("Iterable[Sublayer]", self.sublayers))

    def _self_mask(
        self, length: int, past: int, valid: Tensor | None, device: torch.device
    ) -> Tensor | None:
        """True where a query may look, broadcast to `(R, H, T, P + T)`; None where it may look at all."""
        if valid is None:
            free = length == 1 or not self.config.causal
            return None if free else causal_mask(length, past, device)
        seen = causal_mask(length, past, device)
        if not self.config.causal:
            seen = torch.ones_like(seen)
        # Padding looks at itself, so that its softmax is over something.
        itself = torch.eye(length, dtype=torch.bool, device=device)
        itself = F.pad(itself, (past, 0))
        return ((seen & valid[:, None, :]) | itself)[:, None]


def _activation(name: Activation) -> nn.Module:
    if name == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    if name == "quick_gelu":
        return QuickGELU()
    if name == "relu":
        return nn.ReLU()
    return nn.GELU()


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def _initialise(module: nn.Module, depth: int) -> None:
    """GPT-2's: normal weights of 0.02, residual outputs scaled down by the number of sublayers."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    residual = {Attention: "out", MLP: "fall"}.get(type(module))
    if residual is not None:
        nn.init.normal_(getattr(module, residual).weight, std=0.02 / depth**0.5)
