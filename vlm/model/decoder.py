"""Ids and a memory to next-token logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.model.attention import Attention, KeyValue, causal_mask
from vlm.model.config import DecoderConfig
from vlm.model.grounding import Grounding
from vlm.model.memory import Memory
from vlm.model.sublayers import Sublayer, activation, initialise, norm_layer, run_sublayers

Cache = tuple[KeyValue, ...]
"""Keys and values of the tokens so far, one entry a self-attention sublayer, each `(R, H, T, D / H)`."""


@dataclass(frozen=True)
class Projected:
    """A memory's keys and values for each cross-attention sublayer, made once an image.

    For a joint reader, which has no such layers, it is the memory's `tokens` as they are; see `JointReader`. Beside
    passages `grounding` is what the layers behind the decoder attend to: these slots, and those of the passages.
    """

    layers: Cache
    mask: Tensor | None  # (B, S), True where a slot is real
    tokens: Tensor | None = None  # (B, S, D)
    grounding: Grounding | None = None

    @property
    def images(self) -> int:
        """The images of the batch."""
        return len(self._first)

    @property
    def _first(self) -> Tensor:
        """`(B, ..., S, D)`."""
        return self.layers[0][0] if self.tokens is None else self.tokens

    def map(self, function: Callable[[Tensor], Tensor], mask: Tensor | None) -> Projected:
        """The same of another mask, with a function of all that is `(B, ..., S, D)`."""
        layers = tuple((function(keys), function(values)) for keys, values in self.layers)
        return Projected(layers, mask, None if self.tokens is None else function(self.tokens))

    def select(self, rows: Tensor) -> Projected:
        """The projection of some images of the batch."""
        # index_select, whose gradient adds whole rows; that of indexing adds number by number.
        mask = None if self.mask is None else self.mask[rows]
        chosen = self.map(lambda x: x.index_select(0, rows), mask)
        return replace(chosen, grounding=self.grounding and self.grounding.select(rows))

    def showing(self, shown: Tensor) -> Projected:
        """One image's projection with the slots `shown` `(N, S)` alone, N times as views; passages' come last."""
        own = shown[:, : self._first.shape[-2]]
        all_alike = self.map(lambda x: x.expand(len(shown), *x.shape[1:]), own)
        return replace(all_alike, grounding=self.grounding and self.grounding.showing(shown))

    @staticmethod
    def stack(parts: Sequence[Projected]) -> Projected:
        """Several projections as one batch; shorter memories are padded, and the padding masked.

        One alone stays the view that it is. Raises ValueError where some have passages and others none.
        """
        if len(parts) == 1:
            return parts[0]
        sizes = [part._first.shape[-2] for part in parts]
        longest = max(sizes)

        def joined(tensors: Iterable[Tensor]) -> Tensor:
            return torch.cat([F.pad(x, (0, 0, 0, longest - x.shape[-2])) for x in tensors])

        layers = tuple(
            (joined(keys), joined(values))
            for keys, values in (zip(*layer) for layer in zip(*(part.layers for part in parts)))
        )
        tokens = [part.tokens for part in parts if part.tokens is not None]
        stacked = joined(tokens) if tokens else None
        groundings = [part.grounding for part in parts if part.grounding is not None]
        if groundings and len(groundings) < len(parts):
            raise ValueError("images with passages and images without do not make one batch")
        grounding = Grounding.stack(groundings) if groundings else None
        if all(part.mask is None and size == longest for part, size in zip(parts, sizes)):
            return Projected(layers, None, stacked, grounding)
        masks = [_real(part, size, longest) for part, size in zip(parts, sizes)]
        return Projected(layers, torch.cat(masks), stacked, grounding)


def _real(part: Projected, size: int, longest: int) -> Tensor:
    """Which of `longest` slots are real, `(B, longest)`."""
    first = part._first
    mask = part.mask
    if mask is None:
        mask = torch.ones(len(first), size, dtype=torch.bool, device=first.device)
    return F.pad(mask, (0, longest - size))


@dataclass(frozen=True)
class Decoded:
    """What a pass gives: hidden states `(R, T, D)`, the grown cache, and when asked, cross-attention.

    `cross_attention` has one `(R, H, T, S)` for each cross-attention sublayer, undetached. Beside passages `found`
    `(R, T, P + 1)` has log-probabilities that what is asked for is at one of their slots, or nowhere; see `Match`.
    """

    hidden: Tensor
    cache: Cache
    cross_attention: tuple[Tensor, ...] = ()
    found: Tensor | None = None


class Decoder(nn.Module):
    """A transformer that cross-attends to a memory."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding: nn.Embedding | None = None
        self.distance_embedding: nn.Embedding | None = None
        if config.buckets:
            self.distance_embedding = nn.Embedding(config.buckets, config.heads)
        else:
            self.position_embedding = nn.Embedding(config.max_length, config.width)
        norm = partial(norm_layer, config, config.width)
        self.embedding_norm = norm() if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.sublayers = nn.ModuleList(Sublayer(kind, config) for kind in config.sublayers)
        self.final_norm = norm() if config.prenorm else nn.Identity()
        self.head_transform: nn.Module = nn.Identity()
        if config.head_transform:
            dense = nn.Linear(config.width, config.width)
            self.head_transform = nn.Sequential(dense, activation(config.activation), norm())
        self.head: nn.Module | None = None
        if not config.tied:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.apply(partial(initialise, depth=len(self.sublayers)))

    @property
    def device(self) -> torch.device:
        return self.token_embedding.weight.device

    def project(self, memory: Memory) -> Projected:
        """Cross keys and values of every layer, `(B, H, S, D / H)`."""
        layers: list[KeyValue] = []
        for sublayer in self._sublayers():
            if sublayer.kind == "c":
                body = cast("Attention", sublayer.body)
                keys, values = body.project(sublayer.memory_norm(memory.tokens))
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
        positions, self_mask = place(self.config, ids, cache, valid)
        cross_mask = None if projected.mask is None else projected.mask[:, None, None, :]
        cross_layers, grounding = projected.layers, projected.grounding
        if grounding is None:
            return self.run(
                ids, positions, cross_layers, cache or (), self_mask, cross_mask, explicit
            )
        own = self.config.sublayers.count("s")
        before, behind = (cache[:own], cache[own:]) if cache else ((), ())
        run = self.run(ids, positions, cross_layers, before, self_mask, cross_mask, explicit)
        words = self.token_embedding(ids)
        hidden, grown, looked, found = grounding.apart(
            run.hidden, ids, words, grounding, behind, self_mask, explicit
        )
        more = grounding.mask.shape[1] - projected._first.shape[-2]  # slots that these layers lack
        padded = tuple(F.pad(attention, (0, more)) for attention in run.cross_attention)
        return Decoded(hidden, run.cache + grown, padded + looked, found)

    def run(
        self,
        ids: Tensor,
        positions: Tensor,
        cross_layers: Cache,
        cache: Cache,
        self_mask: Tensor | None,
        cross_mask: Tensor | None,
        explicit: bool,
    ) -> Decoded:
        """All sublayers over `ids` at their `positions`, `(T,)` or `(R, T)`.

        Masks are True where a query may look, and broadcast to `(R, H, T, P + T)` and `(B, H, n * T, S)`.
        """
        x = self.token_embedding(ids) * self.config.embedding_scale  # (R, T, D)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.distance_embedding is not None:
            past = cache[0][0].shape[2] if cache else 0
            self_mask = self._distances(self.distance_embedding, ids.shape[1], past, self_mask)
        x = self.dropout(self.embedding_norm(x))
        x, grown, looked = run_sublayers(
            self._sublayers(), x, cross_layers, cache, self_mask, cross_mask, explicit
        )
        return Decoded(self.final_norm(x), grown, looked)

    def _distances(
        self, embedding: nn.Embedding, length: int, past: int, mask: Tensor | None
    ) -> Tensor:
        """What is added to the scores of `length` tokens behind `past` others, `(1 or R, H, T, P + T)`."""
        places = torch.arange(past + length, device=embedding.weight.device)
        back = (places[past:, None] - places).clamp(min=0)  # (T, P + T)
        steps = distance_buckets(back, self.config.buckets, self.config.reach)
        bias = embedding(steps).permute(2, 0, 1)[None]
        return bias if mask is None else torch.where(mask, bias, float("-inf"))

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits `(..., V)` of hidden states `(..., D)`."""
        hidden = self.head_transform(hidden)
        if self.head is None:
            return F.linear(hidden, self.token_embedding.weight, self.head_bias)
        logits = self.head(hidden)
        return logits if self.head_bias is None else logits + self.head_bias

    def inference(self) -> AbstractContextManager[Any]:
        """What a search runs in: no graph is kept for gradients."""
        return torch.inference_mode()

    def _sublayers(self) -> Iterator[Sublayer]:
        return iter(cast("Iterable[Sublayer]", self.sublayers))


def place(
    config: DecoderConfig, ids: Tensor, cache: Cache | None, valid: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Positions of `ids` `(R, T)` behind `P` cached tokens, `(T,)` or `(R, T)`, and where each may look back.

    The mask broadcasts to `(R, H, T, P + T)`; None lets all tokens look at all. Raises ValueError when the tokens
    are more than the decoder has positions for.
    """
    length, past = ids.shape[1], 0 if not cache else cache[0][0].shape[2]
    if past + length > config.max_length:
        raise ValueError(f"{past + length} tokens are more than the decoder's {config.max_length}")
    if valid is None:
        positions = torch.arange(past, past + length, device=ids.device)
        free = length == 1 or not config.causal
        return positions, None if free else causal_mask(length, past, ids.device)
    positions = (valid.cumsum(dim=1) - 1).clamp(min=0)[:, past:]
    seen = causal_mask(length, past, ids.device)
    if not config.causal:
        seen = torch.ones_like(seen)
    # Padding looks at itself, so that its softmax is over something.
    itself = F.pad(torch.eye(length, dtype=torch.bool, device=ids.device), (past, 0))
    return positions, ((seen & valid[:, None, :]) | itself)[:, None]


def distance_buckets(back: Tensor, buckets: int, reach: int) -> Tensor:
    """Which of T5's buckets tokens are in that lie so far back: half of them hold one distance each.

    The others hold ranges that grow as powers do, up to `reach`.
    """
    exact = buckets // 2
    grown = torch.log(back.clamp(min=1).float() / exact) / math.log(reach / exact)
    far = exact + (grown * (buckets - exact)).long()
    return torch.where(back < exact, back, far.clamp(max=buckets - 1))
