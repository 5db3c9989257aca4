"""Phrases that a text is nudged to use: what is sure to be in the picture, and rare in what the decoder has read.

Contextual biasing, as in speech recognition (Zhao et al., Interspeech 2019): at every step the token that would begin,
or go on with, a phrase which the text has not used yet becomes likelier by some nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Nudge:
    """Phrases as token ids, for the text of one prompt, and what each of their tokens gains, in nats."""

    phrases: tuple[tuple[int, ...], ...] = ()
    nats: float = 0.0


def nudged(logits: Tensor, tokens: Tensor, nudges: Sequence[Nudge], copies: int) -> Tensor:
    """Logits `(R, V)` after the texts `tokens` `(R, T)`, of which each prompt has `copies`, with its nudge."""
    if not any(nudge.phrases for nudge in nudges):
        return logits
    logits = logits.clone()
    for row, text in enumerate(tokens.tolist()):
        nudge = nudges[row // copies]
        favoured = {_next(phrase, text) for phrase in nudge.phrases if not _holds(text, phrase)}
        logits[row, list(favoured)] += nudge.nats
    return logits


def _holds(text: list[int], phrase: tuple[int, ...]) -> bool:
    size = len(phrase)
    return any(tuple(text[i : i + size]) == phrase for i in range(len(text) - size + 1))


def _next(phrase: tuple[int, ...], text: list[int]) -> int:
    """The token of a phrase that goes on with what the text ends with, or its first."""
    for size in range(len(phrase) - 1, 0, -1):
        if tuple(text[-size:]) == phrase[:size]:
            return phrase[size]
    return phrase[0]
