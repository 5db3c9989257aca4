"""Passages of documents as what a text attends to beside an image, and words of them copied.

The decoder stays as it is: without passages every caption and answer is what it was. Behind its last layer stand a few
more that run where there are passages alone. They cross-attend to the whole memory, patches, tags and passages, in one
softmax, so that shares of all sources can be compared. Behind the first of them a match tells where in the passages
there is what the text asks for, or that it is nowhere, and the others attend by that. They end in a pointer over the
passages' tokens beside the vocabulary; see `vlm.model.pointer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.model.attention import Attention, KeyValue, joined
from vlm.model.config import DecoderConfig, DocumentsConfig
from vlm.model.memory import Memory, Segment
from vlm.model.pointer import NO_PASSAGE, NO_TOKEN, Pointer
from vlm.model.sublayers import MLP, Sublayer, run_sublayers

AROUND = 16  # tokens; about a sentence
FAINTEST = -12.0  # as little as the match counts
PASSAGE = "passage "  # and its number: what its segment is called


@dataclass(frozen=True)
class Grounding:
    """What the layers behind a decoder attend to: keys and values of the whole memory, and the passages to copy from.

    `layers` has `(B, H, S, D / H)` of keys and of values for each; `mask` `(B, S)` is True where a slot is real.
    `pointer` has the keys of the passages' slots `(B, 1, P, K)` and the word embeddings that they stand for `(B, 1, P,
    D)`, `match` other keys of theirs. Each has the token `ids` `(B, P)` and is of the passage `numbers` `(B, P)`, from
    0, or of NO_PASSAGE. `apart` are the layers themselves.
    """

    apart: DocumentLayers
    layers: tuple[KeyValue, ...]
    mask: Tensor
    pointer: KeyValue
    match: Tensor
    ids: Tensor
    numbers: Tensor

    def map(
        self, function: Callable[[Tensor], Tensor], mask: Tensor, ids: Tensor, numbers: Tensor
    ) -> Grounding:
        """The same of another mask, ids and numbers, with a function of all that is `(B, ..., S, D)`."""
        layers = tuple((function(keys), function(values)) for keys, values in self.layers)
        pointer = function(self.pointer[0]), function(self.pointer[1])
        return Grounding(self.apart, layers, mask, pointer, function(self.match), ids, numbers)

    def select(self, rows: Tensor) -> Grounding:
        """The grounding of some images of the batch."""
        return self.map(
            lambda x: x.index_select(0, rows), self.mask[rows], self.ids[rows], self.numbers[rows]
        )

    def showing(self, shown: Tensor) -> Grounding:
        """One image's grounding with the slots `shown` `(N, S)` alone, N times as views."""
        passages = shown[:, shown.shape[1] - self.numbers.shape[1] :]
        numbers = self.numbers.where(passages, NO_PASSAGE)
        ids = self.ids.expand(len(shown), -1)
        return self.map(lambda x: x.expand(len(shown), *x.shape[1:]), shown, ids, numbers)

    @staticmethod
    def stack(parts: Sequence[Grounding]) -> Grounding:
        """Several as one batch; those with fewer slots of passages, which are the last, are padded, and it masked."""
        longest = max(part.numbers.shape[1] for part in parts)
        more = [longest - part.numbers.shape[1] for part in parts]

        def padded(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([F.pad(x, (0, 0, 0, n)) for x, n in zip(tensors, more)])

        def told(tensors: Sequence[Tensor], value: int) -> Tensor:
            return torch.cat([F.pad(x, (0, n), value=value) for x, n in zip(tensors, more)])

        layers = tuple(
            (padded([k for k, _ in layer]), padded([v for _, v in layer]))
            for layer in zip(*(part.layers for part in parts))
        )
        pointer = padded([p.pointer[0] for p in parts]), padded([p.pointer[1] for p in parts])
        return Grounding(
            parts[0].apart,
            layers,
            told([part.mask for part in parts], False),
            pointer,
            padded([part.match for part in parts]),
            told([part.ids for part in parts], NO_TOKEN),
            told([part.numbers for part in parts], NO_PASSAGE),
        )


def _layers(
    pattern: str, count: int, config: DocumentsConfig, decoder: DecoderConfig
) -> nn.ModuleList:
    sizes = replace(decoder, mlp_ratio=config.mlp_ratio, prenorm=True, activation="gelu")
    return nn.ModuleList(Sublayer(kind, sizes) for kind in pattern * count)


class PassageReader(nn.Module):
    """Tokens of passages to slots that tell of their neighbours, each passage by itself."""

    def __init__(self, config: DocumentsConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.position_embedding = nn.Embedding(config.length, decoder.width)
        self.norm = nn.LayerNorm(decoder.width)
        self.sublayers = _layers("sm", config.depth, config, decoder)
        self.final_norm = nn.LayerNorm(decoder.width)

    def forward(self, ids: Tensor, words: nn.Module) -> Tensor:
        """Slots `(N, T, D)` of ids `(N, T)`, which have NO_TOKEN behind their end."""
        places = torch.arange(ids.shape[1], device=ids.device)
        if self.training:  # anywhere, so that short passages teach how long ones are read
            room = self.position_embedding.num_embeddings - ids.shape[1]
            places = places + torch.randint(room + 1, (len(ids), 1), device=ids.device)
        x = self.norm(words(ids.clamp(min=0)).detach()) + self.position_embedding(places)
        # Padding looks at itself, so that its softmax is over something.
        itself = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        mask = ((ids != NO_TOKEN)[:, None, :] | itself)[:, None]  # (N, 1, T, T)
        for sublayer in self.sublayers:
            x, _, _ = sublayer(x, mask=mask)
        return self.final_norm(x)


class Match(nn.Module):
    """Where in passages there is what a text asks for.

    Late interaction (ColBERT, Khattab and Zaharia, SIGIR 2020): each token of the text finds its likest among those
    around a slot of a passage, and counts as much as the token that asks attends to it.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.word = nn.Linear(width, channels)
        self.meant = nn.Linear(width, channels, bias=False)
        self.slot = nn.Linear(width, channels)
        self.around = nn.Linear(width, channels, bias=False)
        self.asks = nn.Linear(width, channels)
        self.counts = nn.Linear(width, channels)
        self.nowhere = nn.Linear(width, 1)
        self.sharpness = nn.Parameter(torch.tensor(4.0))

    def keys(self, words: Tensor, slots: Tensor) -> Tensor:
        """Keys `(..., K)` of slots of passages `(..., D)` and the words that they stand for."""
        return self.slot(words) + self.around(slots)

    def forward(
        self,
        x: Tensor,
        words: Tensor,
        grounding: Grounding,
        past: KeyValue | None,
        self_mask: Tensor | None,
    ) -> tuple[Tensor, KeyValue]:
        """Log-probabilities `(R, T, P + 1)` that what states `(R, T, D)` ask for is at a slot, or nowhere; the cache.

        `words` are the embeddings of the tokens themselves.
        """
        x = self.norm(x)
        new = self.word(words) + self.meant(x), self.counts(x)
        meant, counts = joined(past, (new[0][:, None], new[1][:, None]))  # (R, 1, L, K)
        images, scale = len(grounding.match), counts.shape[-1] ** -0.5
        keys = grounding.match[:, 0].transpose(1, 2)
        alike = meant.reshape(images, -1, meant.shape[-1]) @ keys * scale  # (B, n * L, P)
        alike = best_around(alike, grounding.numbers).view(len(x), meant.shape[2], -1)
        weights = (self.asks(x) @ counts[:, 0].transpose(1, 2) * scale)[:, None]  # (R, 1, T, L)
        if self_mask is not None:
            weights = weights.masked_fill(~self_mask, float("-inf"))
        found = weights[:, 0].softmax(dim=-1) @ alike  # (R, T, P)
        missing = (grounding.numbers == NO_PASSAGE).repeat_interleave(len(x) // images, dim=0)
        found = (self.sharpness * found).masked_fill(missing[:, None], float("-inf"))
        chances = torch.cat([found, self.nowhere(x)], dim=-1).float().log_softmax(dim=-1)
        return chances, (meant, counts)


def best_around(scores: Tensor, numbers: Tensor) -> Tensor:
    """The highest of scores `(B, L, P)` among slots less than AROUND away in a passage, by numbers `(B, P)`."""
    step = 1
    while step < min(AROUND, numbers.shape[1]):  # so far the best of those less than `step` away
        other = (numbers[:, step:] != numbers[:, :-step])[:, None]
        later = scores[..., step:].masked_fill(other, float("-inf"))
        earlier = scores[..., :-step].masked_fill(other, float("-inf"))
        scores = torch.maximum(scores, F.pad(later, (0, step), value=float("-inf")))
        scores = torch.maximum(scores, F.pad(earlier, (step, 0), value=float("-inf")))
        step *= 2
    return scores


class DocumentLayers(nn.Module):
    """Layers behind a decoder's last, and the pointer; see the module's docstring."""

    def __init__(self, config: DocumentsConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        width = decoder.width
        self.sublayers = _layers("scm", config.layers, config, decoder)
        self.match = Match(width, config.pointer_width)
        self.trust = nn.Parameter(torch.ones(decoder.heads))  # of each head in the match
        self.pointer = Pointer(width, config.pointer_width, decoder.vocab_size)
        self.memory_norm = nn.LayerNorm(decoder.memory_width)
        self.word_norm = nn.LayerNorm(width)

    def ground(self, memory: Memory, ids: Tensor, words: nn.Embedding) -> Grounding:
        """What the layers attend to, of a memory whose last slots are the passages' tokens `ids` `(B, N, T)`."""
        tokens = self.memory_norm(memory.tokens)
        layers = []
        for sublayer in cast("Iterable[Sublayer]", self.sublayers):
            if sublayer.kind == "c":
                keys, values = cast("Attention", sublayer.body).project(tokens)
                layers.append((keys.contiguous(), values.contiguous()))
        slots = memory.tokens[:, -ids[0].numel() :].unflatten(1, ids.shape[1:])  # (B, N, T, D)
        embedded = words(ids.clamp(min=0)).detach()
        keys = self.pointer.keys(slots).flatten(1, 2)[:, None]
        pointer = keys, embedded.flatten(1, 2)[:, None]
        match = self.match.keys(self.word_norm(embedded), slots).flatten(1, 2)[:, None]
        numbers = torch.arange(ids.shape[1], device=ids.device)[:, None].expand_as(ids)
        numbers = numbers.where(ids != NO_TOKEN, NO_PASSAGE).flatten(1)
        return Grounding(self, tuple(layers), memory.real, pointer, match, ids.flatten(1), numbers)

    def forward(
        self,
        hidden: Tensor,
        ids: Tensor,
        words: Tensor,
        grounding: Grounding,
        past: tuple[KeyValue, ...],
        self_mask: Tensor | None,
        explicit: bool,
    ) -> tuple[Tensor, tuple[KeyValue, ...], tuple[Tensor, ...], Tensor]:
        """Hidden states `(R, T, D)` behind the decoder's, with the grown cache, if `explicit` the attention, the match.

        A decoder's last states tell of the token that follows; `ids` `(R, T)` are the tokens themselves and `words`
        their embeddings, so that they are found in passages. `past` is the layers' own cache, or none: of the match
        and of the tokens so far, and then of the sublayers.
        The attention is `(R, H, T, S)` of each layer, the match `(R, T, P + 1)` as `Match` gives it.
        """
        words = self.word_norm(words.detach())
        sublayers = list(cast("Iterable[Sublayer]", self.sublayers))
        first, rest = sublayers[:3], sublayers[3:]
        mask = grounding.mask[:, None, None, :]
        matched, told = past[:2] or (None, None)
        x, grown, looked = run_sublayers(
            first, hidden + words, grounding.layers[:1], past[2:3], self_mask, mask, explicit
        )
        found, matched = self.match(x, words, grounding, matched, self_mask)
        near = found[..., :-1].clamp(min=FAINTEST).to(x.dtype)
        x, more_grown, more_looked = run_sublayers(
            rest, x, grounding.layers[1:], past[3:], self_mask, self._by(near, grounding), explicit
        )
        said = ids[:, None, :, None]
        told = joined(told, (said, said))  # a cache holds pairs
        copied = self.pointer(x, near, told[0][:, 0, :, 0], grounding)
        return (
            x - words + copied,
            (matched, told, *grown, *more_grown),
            looked + more_looked,
            found,
        )

    def _by(self, near: Tensor, grounding: Grounding) -> Tensor:
        """What heads add to their scores of all slots, `(B, H, n * T, S)`, for the match `(R, T, P)`."""
        mask = grounding.mask[:, None, None, :]
        near = near.reshape(len(mask), 1, -1, near.shape[-1]) * self.trust[:, None, None]
        added = F.pad(near, (mask.shape[-1] - near.shape[-1], 0))
        return added.masked_fill(~mask, float("-inf"))


class Documents(nn.Module):
    """What reads passages, and the layers that use them."""

    def __init__(self, config: DocumentsConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.reader = PassageReader(config, decoder)
        self.layers = DocumentLayers(config, decoder)
        self.apply(_initialise)

    def forward(
        self,
        memory: Memory,
        ids: Tensor,
        words: nn.Embedding,
        spelled: Sequence[Sequence[Sequence[str]]] = (),
    ) -> tuple[Memory, Grounding]:
        """The memory with passages `ids` `(B, N, T)` behind it, and its grounding.

        NO_TOKEN stands behind a passage's end and in passages that an image lacks. The segments are called "passage 1"
        and so on; `spelled` are what their tokens spell.
        """
        count, length = ids.shape[1:]
        slots = self.reader(ids.flatten(0, 1), words).unflatten(0, ids.shape[:2])
        segments = tuple(
            Segment(
                f"{PASSAGE}{n + 1}",
                n * length,
                (n + 1) * length,
                words=tuple(
                    (*own[n], *[""] * (length - len(own[n]))) if n < len(own) else ("",) * length
                    for own in spelled
                )
                or None,
            )
            for n in range(count)
        )
        flat = ids.flatten(1)  # (B, N * T)
        passages = Memory(slots.flatten(1, 2), segments, flat != NO_TOKEN)
        whole = Memory.concat([memory, passages])
        return whole, self.layers.ground(whole, ids, words)


def passage_ids(passages: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """The token ids of each image's passages as one tensor `(B, N, T)`, NO_TOKEN where there is nothing."""
    count = max(map(len, passages))
    length = max((len(ids) for own in passages for ids in own), default=1)
    padded = torch.full((len(passages), max(count, 1), length), NO_TOKEN)
    for image, own in enumerate(passages):
        for number, ids in enumerate(own):
            padded[image, number, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return padded


@torch.no_grad()
def start_documents(documents: Documents, words: nn.Embedding, inside: Sequence[bool]) -> None:
    """Set new layers so that they already do, roughly, what they are to learn.

    A passage's slots and a question's last state begin as sums of the words around them, and the pointer as their
    likeness, so that a word points at passages that share the question's; what it copies for certain has a logit of 12.
    `inside` says which tokens go on within a word; see `Pointer`.
    """
    layers, reader = documents.layers, documents.reader
    pointer = layers.pointer
    pointer.inside.copy_(torch.tensor(inside))
    pointer.strength.fill_(12 / words.weight.square().sum(dim=1).mean().item())
    for body in (_first(reader.sublayers), _first(layers.sublayers)):
        identity = torch.eye(body.out.weight.shape[0])
        body.key_value.weight[len(identity) :] = identity
        body.out.weight.copy_(identity)
    alike = torch.randn_like(pointer.query.weight) / pointer.query.weight.shape[1] ** 0.5
    pointer.query.weight.copy_(2 * alike)
    pointer.key.weight.copy_(alike)
    pointer.key_before.weight.copy_(alike)
    layers.match.word.weight.copy_(alike)
    layers.match.slot.weight.copy_(alike)


def _first(sublayers: nn.ModuleList) -> Attention:
    return cast("Attention", cast("Sublayer", sublayers[0]).body)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, Attention):
        nn.init.normal_(module.out.weight, std=0.005)  # at first the decoder says what it said
    if isinstance(module, MLP):
        nn.init.normal_(module.down.weight, std=0.005)
