"""What an answer rests on, of a photo and of passages beside it: what was attended to, and what it would lose without.

Attention says where the layers behind the decoder looked; what a source is worth is measured by taking it away: the
text is run again without it, all sources in one batch, and what it loses in log-probability is exact. The two may
disagree (Jain and Wallace, NAACL 2019), so both are told, and citations rest on the loss alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlm.documents.passages import Passage
from vlm.explain.finished import Finished
from vlm.explain.hiding import chosen_logprobs, falls, with_slots
from vlm.model.grounding import PASSAGE
from vlm.model.memory import Segment

LEAST = 1.0  # nats that an answer loses without what it is said to rest on

Ground = Literal["photo", "passage", "nothing"]


@dataclass(frozen=True)
class SourceUse:
    """What one source did for a text: its `share` of the attention, in 0..1, and what the text would lose, in nats.

    `passage` is its place among the passages, or None for the photo with its tags. `words` are a passage's words, each
    with its part of the attention on the passages, 0..1.
    """

    passage: int | None
    share: float
    lost: float
    words: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What a text rests on: every source's use, the photo's first, and then that of each of the `passages`.

    Where there is no photo the passages are all, and shares are of the attention on them.
    `lost_by_word` and `share_by_word` have a row for each word, with a number for each of the `sources`.
    """

    passages: tuple[Passage, ...]
    sources: tuple[SourceUse, ...]
    share_by_word: tuple[tuple[float, ...], ...]
    lost_by_word: tuple[tuple[float, ...], ...]

    @property
    def cited(self) -> int | None:
        """The passage without which the text would lose most, and at least LEAST nats; None where there is none."""
        passages = [source for source in self.sources if source.passage is not None]
        best = max(passages, key=lambda source: source.lost, default=None)
        return None if best is None or best.lost < LEAST else best.passage

    @property
    def ground(self) -> Ground:
        """What the text rests on most: a passage where one is cited, else the photo where that is worth LEAST nats."""
        if self.cited is not None:
            return "passage"
        first = self.sources[0]
        return "photo" if first.passage is None and first.lost >= LEAST else "nothing"

    @property
    def has_photo(self) -> bool:
        """Whether a photo is among the sources."""
        return self.sources[0].passage is None


@torch.inference_mode()
def evidence(
    finished: Finished, passages: Sequence[Passage], lost_without_photo: Tensor | None
) -> Evidence:
    """The evidence of a text beside passages, one for each of the memory's segments of them.

    A passage that was too long for one has several, and is one source.
    `lost_without_photo` `(T,)` is what each of its tokens loses without the photo, in nats, and None where there is no
    photo. Raises ValueError where there are no passages.
    """
    if finished.projected.grounding is None:
        raise ValueError("there are no passages beside this image")
    segments = [s for s in finished.memory.segments if s.name.startswith(PASSAGE)]
    parts: dict[Passage, list[Segment]] = {}
    for passage, segment in zip(passages, segments, strict=True):
        parts.setdefault(passage, []).append(segment)
    prompt, spans = len(finished.prompt.ids), finished.tokenizer.words(finished.ids)
    count = len(parts)

    looked = _looked(finished)[prompt:]  # (T, S)
    lost = _lost(finished, list(parts.values()))[prompt:]  # (T, N)
    in_segments = {s: looked[:, s.start : s.stop] for s in segments}
    in_passages = [torch.cat([in_segments[s] for s in own], dim=1) for own in parts.values()]
    of_passages = torch.stack([weights.sum(dim=1) for weights in in_passages], dim=1)
    of_all = of_passages.sum(dim=1, keepdim=True)
    if lost_without_photo is None:
        shares = of_passages / of_all
    else:
        shares = torch.cat([1 - of_all, of_passages], dim=1)
        lost = torch.cat([lost_without_photo[:, None].to(lost), lost], dim=1)  # (T, 1 + N)

    by_word = [
        (shares[list(span.tokens)].mean(dim=0), lost[list(span.tokens)].sum(dim=0))
        for span in spans
    ]
    mean, total = shares.mean(dim=0).tolist(), lost.sum(dim=0).tolist()
    before = mean[:-count], total[:-count]
    sources = [SourceUse(None, share, nats) for share, nats in zip(*before)]
    after = zip(parts.values(), mean[-count:], total[-count:])
    for number, (own, share, nats) in enumerate(after):
        words = [word for s in own for word in _words(s, in_segments[s].mean(dim=0))]
        sources.append(SourceUse(number, share, nats, tuple(words)))
    return Evidence(
        tuple(parts),
        tuple(sources),
        tuple(tuple(share.tolist()) for share, _ in by_word),
        tuple(tuple(nats.tolist()) for _, nats in by_word),
    )


def _looked(finished: Finished) -> Tensor:
    """Where the layers behind the decoder looked as each token was chosen, mean over layers and heads, `(T, S)`."""
    grounding = finished.projected.grounding
    assert grounding is not None
    decoded = finished.model.decoder(finished.sequence, finished.projected, explicit=True)
    layers = decoded.cross_attention[-len(grounding.layers) :]
    return torch.stack([layer[0].mean(dim=0) for layer in layers]).mean(dim=0)[finished.rows]


def _lost(finished: Finished, passages: list[list[Segment]]) -> Tensor:
    """What each token of the prompt and the text loses without each passage's segments, `(T, N)`, at least 0."""
    shown = finished.memory.real.repeat(1 + len(passages), 1)
    for row, segments in enumerate(passages, 1):
        for segment in segments:
            shown[row, segment.start : segment.stop] = False
    ids = finished.ids
    return falls(finished, with_slots(finished, shown), lambda x: chosen_logprobs(x, ids))[0]


def _words(segment: Segment, looked: Tensor) -> list[tuple[str, float]]:
    """A passage's words, each with the attention on its tokens; `looked` is `(L,)`."""
    assert segment.words is not None
    words: list[tuple[str, float]] = []
    for piece, weight in zip(segment.words[0], looked.tolist(), strict=True):
        if piece.startswith(" "):
            words.append((piece.strip(), weight))
        elif words:
            text, before = words[-1]
            words[-1] = (text + piece, before + weight)
    return words
