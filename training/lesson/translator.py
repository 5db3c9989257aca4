"""Words to words by the decoder that captions photos: its memory is what a reader makes of a source's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vlm.attend.source import AttendError, Look
from vlm.generate import generate
from vlm.model.config import DecoderConfig
from vlm.model.decoder import Decoder, Projected
from vlm.model.memory import Memory, word_memory
from vlm.options import Options

from .pairs import Vocabulary

LONGEST = 64  # words of a source or a target


class Translator(nn.Module):
    """A reader of source words and a decoder that cross-attends to what it made of them.

    The reader is the decoder's class without cross-attention and with eyes for later words, too.
    """

    def __init__(
        self, vocabulary: Vocabulary, width: int, heads: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        config = DecoderConfig(
            vocab_size=len(vocabulary),
            width=width,
            heads=heads,
            depth=depth,
            max_length=LONGEST,
            memory_width=width,
            dropout=dropout,
        )
        self.reader = Decoder(replace(config, pattern="sm", causal=False))
        self.decoder = Decoder(config)
        # One table of words, so that a word which is copied is the same on both sides.
        self.reader.token_embedding = self.decoder.token_embedding

    def encode(self, sources: Sequence[Sequence[str]]) -> Memory:
        """One slot `(B, S, D)` for each source word; sources that are shorter than the longest are masked."""
        ids = padded([self.vocabulary.encode(words) for words in sources])  # (B, S)
        hidden = self.reader(ids, Projected((), None), valid=ids != Vocabulary.PAD).hidden
        return word_memory(hidden, "source", sources)

    def forward(self, memory: Memory, ids: Tensor) -> Tensor:
        """Logits `(B, T, V)` of what follows each of the target's `ids` `(B, T)`."""
        decoded = self.decoder(ids, self.decoder.project(memory))
        return self.decoder.logits(decoded.hidden)

    @torch.inference_mode()
    def translate(self, sources: Sequence[Sequence[str]]) -> list[list[str]]:
        """The likeliest word, one after the other, until the end."""
        projected = self.decoder.project(self.encode(sources))
        starts = [[Vocabulary.START]] * len(sources)
        options = Options(max_tokens=LONGEST)
        found = generate(self.decoder, projected, starts, Vocabulary.END, Vocabulary.PAD, options)
        return [self.vocabulary.decode(hypotheses[0].ids) for hypotheses in found]

    @torch.inference_mode()
    def read(self, source: Sequence[str], target: Sequence[str] | None = None) -> ReadPair:
        """A source and a target in one pass that keeps the attention; by default the target that it writes.

        Raises AttendError for a text without words or with more than `LONGEST` less one.
        """
        target = self.translate([source])[0] if target is None and source else target
        for name, words in (("source", source), ("target", target or ())):
            if not 0 < len(words) < LONGEST:
                raise AttendError(
                    f"the {name} has {len(words)} words; it may have 1 to {LONGEST - 1}"
                )
        assert target is not None
        ids = torch.tensor([[Vocabulary.START, *self.vocabulary.encode(target)]])
        projected = self.decoder.project(self.encode([source]))
        # Row t is what chose word t; the last one's, which chose the end, is left out.
        layers = self.decoder(ids[:, :-1], projected, explicit=True).cross_attention
        return ReadPair(tuple(source), tuple(target), torch.cat(layers))


@dataclass(frozen=True, eq=False)
class ReadPair:
    """What each head looked at as it chose each target word; see `vlm.attend.source.Source`.

    `attention` is `(L, H, T, S)`: layers, heads, target words, source words. Rows sum to 1.
    """

    source: tuple[str, ...]
    words: tuple[str, ...]
    attention: Tensor

    def looks(self) -> Iterator[Look]:
        for layer, heads in enumerate(self.attention):
            for head, weights in enumerate(heads):
                yield Look(layer, head, self.source, weights)


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Ids `(B, longest)`, with padding behind the shorter rows."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=Vocabulary.PAD)
