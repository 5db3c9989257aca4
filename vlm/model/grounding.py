"""Passages of documents as what a text attends to beside an image, and words of them copied.

The decoder stays as it is: without passages every caption and answer is what it was. Behind its last layer stand a few
more that run where there are passages alone. They cross-attend to the whole memory, patches, tags and passages in one
softmax, so that shares of all sources can be compared, and end in a pointer over the passages' tokens beside the
vocabulary (after See, Liu and Manning, ACL 2017; here in logits, as tied embeddings allow), so that a name which no
text has had before comes out right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.model.attention import Attention, KeyValue
from vlm.model.config import DecoderConfig, DocumentsConfig
from vlm.model.memory import Memory, Segment
from vlm.model.sublayers import MLP, Sublayer, run_sublayers

NO_TOKEN = -1  # behind a passage's last token
PASSAGE = "passage "  # and its number: what its segment is called


@dataclass(frozen=True)
class Grounding:
    """What the layers behind a decoder attend to: keys and values of the whole memory, and the passages to copy from.

    `layers` has `(B, H, S, D / H)` of keys and of values for each; `mask` `(B, S)` is True where a slot is real.
    `pointer` has the keys of the passages' slots `(B, 1, P, K)` and the word embeddings that they stand for `(B, 1, P,
    D)`, and `of_passages` `(B, P)` is True where such a slot is real. `apart` are the layers themselves.
    """

    apart: DocumentLayers
    layers: tuple[KeyValue, ...]
    mask: Tensor
    pointer: KeyValue
    of_passages: Tensor

    def map(
        self, function: Callable[[Tensor], Tensor], mask: Tensor, of_passages: Tensor
    ) -> Grounding:
        """The same of other masks, with a function of all that is `(B, ..., S, D)`."""
        layers = tuple((function(keys), function(values)) for keys, values in self.layers)
        pointer = function(self.pointer[0]), function(self.pointer[1])
        return Grounding(self.apart, layers, mask, pointer, of_passages)

    def select(self, rows: Tensor) -> Grounding:
        """The grounding of some images of the batch."""
        return self.map(lambda x: x.index_select(0, rows), self.mask[rows], self.of_passages[rows])

    def showing(self, shown: Tensor) -> Grounding:
        """One image's grounding with the slots `shown` `(N, S)` alone, N times as views."""
        passages = shown[:, shown.shape[1] - self.of_passages.shape[1] :]
        return self.map(lambda x: x.expand(len(shown), *x.shape[1:]), shown, passages)

    @staticmethod
    def stack(parts: Sequence[Grounding]) -> Grounding:
        """Several as one batch; those with fewer slots of passages, which are the last, are padded, and it masked."""
        longest = max(part.of_passages.shape[1] for part in parts)
        more = [longest - part.of_passages.shape[1] for part in parts]

        def joined(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([F.pad(x, (0, 0, 0, n)) for x, n in zip(tensors, more)])

        def masks(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([F.pad(x, (0, n)) for x, n in zip(tensors, more)])

        layers = tuple(
            (joined([k for k, _ in layer]), joined([v for _, v in layer]))
            for layer in zip(*(part.layers for part in parts))
        )
        pointer = joined([p.pointer[0] for p in parts]), joined([p.pointer[1] for p in parts])
        return Grounding(
            parts[0].apart,
            layers,
            masks([part.mask for part in parts]),
            pointer,
            masks([part.of_passages for part in parts]),
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


class DocumentLayers(nn.Module):
    """Layers behind a decoder's last, and the pointer; see the module's docstring."""

    def __init__(self, config: DocumentsConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        width = decoder.width
        self.sublayers = _layers("scm", config.layers, config, decoder)
        self.memory_norm = nn.LayerNorm(decoder.memory_width)
        self.pointer_norm = nn.LayerNorm(width)
        self.word_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, config.pointer_width)
        self.key = nn.Linear(width, config.pointer_width)
        self.key_before = nn.Linear(width, config.pointer_width, bias=False)
        self.nothing = nn.Parameter(torch.zeros(config.pointer_width))  # the key of copying nothing
        self.reluctance = nn.Parameter(torch.tensor(6.0))  # by how much that comes first
        self.strength = nn.Parameter(torch.ones(()))  # of a copied word's embedding

    def ground(self, memory: Memory, ids: Tensor, words: nn.Embedding) -> Grounding:
        """What the layers attend to, of a memory whose last slots are the passages' tokens `ids` `(B, N, T)`."""
        tokens = self.memory_norm(memory.tokens)
        layers = []
        for sublayer in cast("Iterable[Sublayer]", self.sublayers):
            if sublayer.kind == "c":
                keys, values = cast("Attention", sublayer.body).project(tokens)
                layers.append((keys.contiguous(), values.contiguous()))
        slots = memory.tokens[:, -ids[0].numel() :].unflatten(1, ids.shape[1:])  # (B, N, T, D)
        # What stood before a token is a part of its key: to go on with a span is to find what was said last.
        keys = self.key(slots) + self.key_before(F.pad(slots, (0, 0, 1, -1)))
        embedded = words(ids.clamp(min=0)).detach()
        pointer = keys.flatten(1, 2)[:, None], embedded.flatten(1, 2)[:, None]
        return Grounding(self, tuple(layers), memory.real, pointer, ids.flatten(1) != NO_TOKEN)

    def forward(
        self,
        hidden: Tensor,
        words: Tensor,
        grounding: Grounding,
        past: tuple[KeyValue, ...],
        self_mask: Tensor | None,
        explicit: bool,
    ) -> tuple[Tensor, tuple[KeyValue, ...], tuple[Tensor, ...]]:
        """Hidden states `(R, T, D)` behind the decoder's, with the grown cache and, if `explicit`, the attention.

        A decoder's last states tell of the token that follows; `words` are the embeddings of the tokens themselves, so
        that they are found in passages. `past` is the layers' own cache, one entry each or none. The attention is
        `(R, H, T, S)` of each layer.
        """
        words = self.word_norm(words.detach())
        sublayers = cast("Iterable[Sublayer]", self.sublayers)
        mask = grounding.mask[:, None, None, :]
        x, grown, looked = run_sublayers(
            sublayers, hidden + words, grounding.layers, past, self_mask, mask, explicit
        )
        return x - words + self.strength * self.copied(x, grounding), grown, looked

    def copied(self, x: Tensor, grounding: Grounding) -> Tensor:
        """The embedding of what the pointer points at, `(R, T, D)`, shorter the more it points at nothing."""
        weights = self.points(x, grounding)  # (B, n * T, P)
        return (weights @ grounding.pointer[1][:, 0]).view_as(x)

    def points(self, x: Tensor, grounding: Grounding) -> Tensor:
        """The pointer's weights `(B, n * T, P)` on the passages' slots for states `(B * n, T, D)`; up to 1 in sum."""
        keys = grounding.pointer[0][:, 0]  # (B, P, K)
        queries = self.query(self.pointer_norm(x)) / keys.shape[-1] ** 0.5
        queries = queries.reshape(len(keys), -1, keys.shape[-1])  # (B, n * T, K)
        scores = queries @ keys.transpose(1, 2)
        scores = scores.masked_fill(~grounding.of_passages[:, None], float("-inf"))
        nothing = self.reluctance + queries @ self.nothing
        return torch.cat([scores, nothing[..., None]], dim=-1).softmax(dim=-1)[..., :-1]


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
def start_documents(documents: Documents, words: nn.Embedding) -> None:
    """Set new layers so that they already do, roughly, what they are to learn.

    A passage's slots and a question's last state begin as sums of the words around them, and the pointer as their
    likeness, so that a word points at passages that share the question's; what it copies for certain has a logit of 12.
    """
    layers, reader = documents.layers, documents.reader
    layers.strength.fill_(12 / words.weight.square().sum(dim=1).mean().item())
    for body in (_first(reader.sublayers), _first(layers.sublayers)):
        identity = torch.eye(body.out.weight.shape[0])
        body.key_value.weight[len(identity) :] = identity
        body.out.weight.copy_(identity)
    alike = torch.randn_like(layers.query.weight) / layers.query.weight.shape[1] ** 0.5
    layers.query.weight.copy_(2 * alike)
    layers.key.weight.copy_(alike)
    layers.key_before.weight.copy_(alike)


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
