"""What a transformer's layers are made of: attention to the text, attention to a memory, and an MLP."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vlm.model.attention import Attention, KeyValue
from vlm.model.config import Activation, DecoderConfig


class Sublayer(nn.Module):
    """Self-attention (`s`), cross-attention (`c`) or MLP (`m`), with its norm and residual."""

    def __init__(self, kind: str, config: DecoderConfig) -> None:
        super().__init__()
        self.kind = kind
        self.prenorm = config.prenorm
        self.norm = norm_layer(config, config.width)
        self.dropout = nn.Dropout(config.dropout)
        source_width = config.memory_width if kind == "c" else config.width
        self.memory_norm: nn.Module = nn.Identity()
        if kind == "c" and config.memory_norm:
            self.memory_norm = norm_layer(config, config.memory_width)
        self.body: Attention | MLP | GatedMLP
        if kind == "m":
            self.body = GatedMLP(config) if config.gated else MLP(config)
        else:
            self.body = Attention(config.width, config.heads, source_width)

    def forward(
        self,
        x: Tensor,
        memory: KeyValue | None = None,
        past: KeyValue | None = None,
        mask: Tensor | None = None,
        explicit: bool = False,
    ) -> tuple[Tensor, KeyValue | None, Tensor | None]:
        """`x` `(R, T, D)` and what the body adds; of attention also what `Attention` gives beside it."""
        change, key_value, probabilities = self.norm(x) if self.prenorm else x, None, None
        if self.kind == "m":
            change = self.body(change)
        else:
            change, key_value, probabilities = self.body(change, memory, past, mask, explicit)
        x = x + self.dropout(change)
        return x if self.prenorm else self.norm(x), key_value, probabilities


def run_sublayers(
    sublayers: Iterable[Sublayer],
    x: Tensor,
    memory: Iterable[KeyValue],
    past: Iterable[KeyValue],
    self_mask: Tensor | None,
    cross_mask: Tensor | None,
    explicit: bool,
) -> tuple[Tensor, tuple[KeyValue, ...], tuple[Tensor, ...]]:
    """States `(R, T, D)` through some sublayers: these, the grown cache, and if `explicit`, the cross-attention.

    `memory` has the keys and values of each cross-attention, and `past` the cache of each self-attention, or nothing.
    """
    cross, pasts = iter(memory), iter(past)
    grown: list[KeyValue] = []
    looked: list[Tensor] = []
    for sublayer in sublayers:
        if sublayer.kind == "s":
            x, key_value, _ = sublayer(x, None, next(pasts, None), self_mask)
            grown.append(key_value)
        elif sublayer.kind == "c":
            x, _, probabilities = sublayer(x, next(cross), None, cross_mask, explicit)
            looked.append(probabilities)
        else:
            x, _, _ = sublayer(x)
    return x, tuple(grown), tuple(looked) if explicit else ()


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.mlp_ratio)
        self.up = nn.Linear(config.width, hidden)
        self.activation = activation(config.activation)
        self.down = nn.Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class GatedMLP(nn.Module):
    """Two linear layers, one of them behind an activation, multiplied, and a third (GEGLU, Shazeer 2020)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.mlp_ratio)
        self.gate = nn.Linear(config.width, hidden)
        self.activation = activation(config.activation)
        self.up = nn.Linear(config.width, hidden)
        self.down = nn.Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def norm_layer(config: DecoderConfig, width: int) -> nn.Module:
    """A norm over the channels, as the configuration has it."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(width, eps=config.norm_eps)


def activation(name: Activation) -> nn.Module:
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


def initialise(module: nn.Module, depth: int) -> None:
    """GPT-2's: normal weights of 0.02, residual outputs scaled down by the number of sublayers."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    residual = {Attention: "out", MLP: "down", GatedMLP: "down"}.get(type(module))
    if residual is not None:
        nn.init.normal_(getattr(module, residual).weight, std=0.02 / depth**0.5)
