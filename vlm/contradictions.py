"""Answers that name both what the photo shows and what documents say of it: "dog, but the documents say cat"."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from vlm.documents.passages import Passage
from vlm.generate import Hypothesis
from vlm.tokenizer import Tokenizer

_BOTH = re.compile(r"(?P<shown>.+?),? ?\bbut the documents say (?P<said>.+)", re.IGNORECASE)
_PHOTO = re.compile(r"\b(?:photo|photograph|picture|image)s?\b", re.IGNORECASE)


def without_false_ones(
    tokenizer: Tokenizer, hypotheses: Sequence[Hypothesis], passages: Sequence[Passage]
) -> list[Hypothesis]:
    """Hypotheses of an answer beside passages, of which none tells of a contradiction that there is not.

    "dog, but the documents say dog" becomes "dog", and so does "dog, but the documents say cat" where no passage speaks
    of the photo. It is as likely then as all that became it.
    """
    about_photo = any(_PHOTO.search(passage.text) for passage in passages)
    found: dict[tuple[int, ...], Hypothesis] = {}
    for hypothesis in hypotheses:
        both = _BOTH.fullmatch(tokenizer.decode(hypothesis.ids)) if hypothesis.finished else None
        if both is not None and not (about_photo and both["said"].lower() != both["shown"].lower()):
            hypothesis = _cut(tokenizer, hypothesis, both["shown"])
        same = found.get(hypothesis.ids)
        found[hypothesis.ids] = hypothesis if same is None else _either(same, hypothesis)
    return list(found.values())


def _cut(tokenizer: Tokenizer, hypothesis: Hypothesis, text: str) -> Hypothesis:
    """The tokens that spell the text that a hypothesis begins with; the end is as likely as all that followed."""
    ids, logprobs = hypothesis.ids, hypothesis.logprobs
    count = next((n for n in range(1, len(ids)) if tokenizer.decode(ids[:n]) == text), None)
    if count is None:  # in other signs than it has there
        return hypothesis
    return replace(hypothesis, ids=ids[:count], logprobs=(*logprobs[:count], sum(logprobs[count:])))


def _either(one: Hypothesis, other: Hypothesis) -> Hypothesis:
    """Two ways to the same tokens as one: its end is as likely as both."""
    count = len(one.ids)
    ends = [sum(way.logprobs[count:]) for way in (one, other)]
    end = max(ends) + math.log1p(math.exp(min(ends) - max(ends)))
    best = max(one, other, key=lambda way: way.score)
    return replace(best, logprobs=(*best.logprobs[:count], min(end, 0.0)))
