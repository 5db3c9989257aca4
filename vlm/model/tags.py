"""Words for what a classifier is sure of, which the decoder attends to beside the patches."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.model.config import TagsConfig
from vlm.model.memory import Memory, Segment

NO_TOKEN = -1  # in place of a token, where a name is shorter than the longest


class Tags(NamedTuple):
    """The surest names of each image, most probable first: their numbers and probabilities, both `(B, top)`."""

    names: Tensor
    probabilities: Tensor


class Tagger(nn.Module):
    """Patches to tags, and tags to memory slots, one for each token of a name.

    The classifier is the encoder's own, which stays as it is. Classes that share an everyday name add their
    probabilities, so that a hundred breeds make one "dog", and the sum is divided by the square root of their number,
    since what is like nothing has a little of each breed. A slot holds the token's word embedding, its place in the
    name and how sure the name is, so that the decoder can copy a word that it has seldom read in a caption.
    """

    classifier: Tensor
    bias: Tensor
    name_of_class: Tensor
    tokens: Tensor

    def __init__(
        self, config: TagsConfig, features: int, width: int, memory_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout  # of whole tags: the patches must suffice, too
        self.register_buffer("classifier", torch.zeros(config.classes, features))
        self.register_buffer("bias", torch.zeros(config.classes))
        # The number of each class's name; a class whose name is no help has no name's number.
        self.register_buffer("name_of_class", torch.zeros(config.classes, dtype=torch.long))
        shape = (len(config.names), config.length)
        self.register_buffer("tokens", torch.full(shape, NO_TOKEN, dtype=torch.long))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, memory_width)
        self.place_embedding = nn.Embedding(config.length, memory_width)
        self.sureness = nn.Linear(1, memory_width)

    def logits(self, patches: Tensor) -> Tensor:
        """The classifier's scores of its classes `(B, classes)` for patches `(B, N, D)`."""
        own = patches[..., : self.classifier.shape[1]]  # without the detail of a patch's cells
        return F.linear(own.mean(dim=1), self.classifier, self.bias)

    def classify(self, patches: Tensor) -> Tags:
        """The surest names for patches `(B, N, D)`."""
        by_class = self.logits(patches).float().softmax(dim=-1)  # (B, classes)
        # Products, since other runtimes lack sums by index; (classes, names + 1).
        named = F.one_hot(self.name_of_class, len(self.config.names) + 1).to(by_class.dtype)
        by_name, shared = by_class @ named, named.sum(dim=0)
        by_name = F.normalize((by_name / shared.clamp(min=1).sqrt())[:, :-1], p=1, dim=1)
        probabilities, names = by_name.topk(self.config.top, dim=1)
        return Tags(names, probabilities)

    def forward(self, patches: Tensor, words: nn.Module, tags: Tags | None = None) -> Memory:
        """The memory of the tags of patches `(B, N, D)`, or of given ones, in the embeddings `words`.

        Unsure tags are masked, and while training some of the patches' own.
        """
        if tags is None:
            tags = self.dropped(self.classify(patches)) if self.training else self.classify(patches)
        slots, real = self.slots(tags, words)
        segment = Segment("tags", 0, slots.shape[1])
        if not self.training:  # where someone may ask what was read
            segment = replace(segment, words=self._words(tags, real), sure=self._sure(tags))
        return Memory(slots, (segment,), real)

    def dropped(self, tags: Tags) -> Tags:
        """The tags with some of them, drawn by chance, of no probability."""
        kept = torch.rand(tags.probabilities.shape, device=tags.probabilities.device)
        return Tags(tags.names, tags.probabilities * (kept >= self.dropout))

    def slots(self, tags: Tags, words: nn.Module) -> tuple[Tensor, Tensor]:
        """Memory slots of tags `(B, top * length, D)`, and which are real `(B, top * length)`."""
        sure = tags.probabilities >= self.config.least  # (B, top)
        ids = self.tokens[tags.names]  # (B, top, length)
        real = sure[..., None] & (ids != NO_TOKEN)
        slots = self.project(self.norm(words(ids.clamp(min=0))))  # (B, top, length, D)
        logs = tags.probabilities.clamp(min=self.config.least).log()
        slots = slots + self.place_embedding.weight + self.sureness(logs[..., None, None])
        return slots.flatten(1, 2), real.flatten(1)

    def _words(self, tags: Tags, real: Tensor) -> tuple[tuple[str, ...], ...]:
        """For each slot of each image the name that it is a part of, or nothing where it is masked."""
        names = tags.names.repeat_interleave(self.config.length, dim=1)  # (B, top * length)
        return tuple(
            tuple(self.config.names[n] if there else "" for n, there in zip(*row, strict=True))
            for row in zip(names.tolist(), real.tolist(), strict=True)
        )

    def _sure(self, tags: Tags) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The token ids of each image's sure names."""
        ids = self.tokens[tags.names].tolist()  # (B, top, length)
        return tuple(
            tuple(
                tuple(token for token in name if token != NO_TOKEN)
                for name, probability in zip(*row, strict=True)
                if probability >= self.config.sure
            )
            for row in zip(ids, tags.probabilities.tolist(), strict=True)
        )
