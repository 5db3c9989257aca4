"""Answers that were copied from passages: whole ones are taken before what was broken on the way, or is hardly denied.

A copy that breaks off, or that mixes two spans, is a name or a number that nobody wrote: "Flack" for "Flack Sondchan",
"5599 millimetres" of "5599 inches" and "69 millimetres".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from vlm.citations import NOT_THERE
from vlm.documents.passages import Passage

LIKELY = 0.2  # how likely a whole copy must be beside what it takes the place of
DOUBTED = 0.5  # below this probability "not in the documents" gives way


class Text(Protocol):
    """A candidate for an answer."""

    @property
    def text(self) -> str: ...
    @property
    def confidence(self) -> float: ...


T = TypeVar("T", bound=Text)


def whole_copy(
    candidates: Sequence[T], passages: Sequence[Passage], is_everyday: Callable[[str], bool]
) -> T:
    """The first of candidates for an answer, best first, or the whole copy of a passage that is taken in its place.

    Of an answer that a passage has as it stands, that is one which goes on before or behind it; of one that none has,
    one that shares a word with it; of "not in the documents" that is less likely than not, any. Words that are all
    `is_everyday` are the model's own, and no copy.
    """
    best = candidates[0]
    words = _parts(best.text)
    denied = best.text.lower() == NOT_THERE
    if best.confidence >= DOUBTED if denied else _own(words, is_everyday):
        return best
    stands = _stands(words, passages)
    for other in candidates[1:]:
        copy = _parts(other.text)
        if denied:
            fits = not _own(copy, is_everyday)
        elif stands:
            fits = words in (copy[: len(words)], copy[-len(words) :])
        else:
            fits = bool(set(copy) & set(words))
        if fits and other.confidence >= LIKELY * best.confidence and _stands(copy, passages):
            return other
    return best


def _own(words: Sequence[str], is_everyday: Callable[[str], bool]) -> bool:
    return all(is_everyday(word) and not word.isdecimal() for word in words)


def _parts(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _stands(parts: Sequence[str], passages: Sequence[Passage]) -> bool:
    """Whether a passage has words and signs in a row, whatever their capitals."""
    pattern = re.compile(
        r"(?<!\w)" + r"\s*".join(re.escape(part) for part in parts) + r"(?!\w)", re.IGNORECASE
    )
    return any(pattern.search(passage.text) for passage in passages)
