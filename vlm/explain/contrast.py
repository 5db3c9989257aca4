"""Why this word and not another: which patches speak for it, and not for its foil.

After "Interpreting language models with contrastive explanations", Yin and Neubig, EMNLP 2022, by hiding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.hiding import logits_of
from vlm.explain.method import Choice, Looks, MethodError
from vlm.explain.occlusion import looks_by_hiding
from vlm.prompts import clean_text


@dataclass(frozen=True)
class Decision:
    """Where a text and the same with a foil part: a position of the text, its token there, and the foil's.

    Where one of them ends as the other goes on it has no token there: it is anything but the other's.
    """

    position: int
    own: int | None
    other: int | None

    def odds(self, logits: Tensor) -> Tensor:
        """log p(own) - log p(other), `(N,)`, of logits `(N, T + 1, V)`."""
        logprobs = logits[:, self.position].float().log_softmax(dim=-1)
        sides = [None if token is None else logprobs[:, token] for token in (self.own, self.other)]
        own, other = sides
        if own is None:
            assert other is not None
            return _not(other) - other
        return own - (_not(own) if other is None else other)


def contrast(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """How many nats a word's log-odds against a foil lose as patches are hidden; see `looks_by_hiding`.

    Without a foil it is, for each token, the likeliest other one. A word that is the foil has no odds against itself,
    and its map has no mass. Raises MethodError where the foil has no word.
    """
    decisions = decisions_of(finished, choice.foil)

    def odds(logits: Tensor) -> Tensor:
        none = logits.new_zeros(len(logits))
        return torch.stack([none if d is None else d.odds(logits) for d in decisions], dim=1)

    return looks_by_hiding(finished, odds)


def decisions_of(finished: Finished, foil: str | None) -> list[Decision | None]:
    """For each token of the text, where it and a foil part. Raises MethodError where the foil has no word."""
    if foil is None:
        return [*_runners_up(finished)]
    foil = clean_text(foil)
    if not finished.tokenizer.encode(foil):
        raise MethodError("the foil is empty; write a word")
    text = finished.tokenizer.decode(finished.ids)
    decisions: list[Decision | None] = [None] * len(finished.ids)
    for word in finished.tokenizer.words(finished.ids):
        own = [finished.ids[token] for token in word.tokens]
        others = _in_place(finished, text[: word.start].rstrip(), foil)
        decision = _parting(own, others, word.tokens[0])
        for token in word.tokens:
            decisions[token] = decision
    return decisions


def _in_place(finished: Finished, before: str, foil: str) -> list[int]:
    """The tokens of a foil that follows a text."""
    encode = finished.tokenizer.encode
    return encode(f"{before} {foil}")[len(encode(before)) :]


def _parting(own: Sequence[int], others: Sequence[int], start: int) -> Decision | None:
    """Where two words part that start at a position; None where they are the same."""
    alike = 0
    while alike < min(len(own), len(others)) and own[alike] == others[alike]:
        alike += 1
    if alike == len(own) == len(others):
        return None
    ends = [word[alike] if alike < len(word) else None for word in (own, others)]
    return Decision(start + alike, *ends)


def _runners_up(finished: Finished) -> list[Decision]:
    logits = logits_of(finished)
    ids = torch.tensor(finished.ids, device=logits.device)[:, None]
    others = logits[:-1].scatter(1, ids, float("-inf")).argmax(dim=1).tolist()
    return [Decision(i, own, other) for i, (own, other) in enumerate(zip(finished.ids, others))]


def _not(logprob: Tensor) -> Tensor:
    """The log-probability of anything else."""
    return torch.log1p(-logprob.exp().clamp(max=1 - 1e-7))
