"""Answers that were copied from passages: whole ones are taken before what was broken on the way, or is hardly denied.

A copy that breaks off, or that mixes two spans, is a name or a number that nobody wrote: "Flack" for "Flack Sondchan",
"5599 millimetres" of "5599 inches" and "69 millimetres".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlm.answers import Alternative
from vlm.citations import NOT_THERE
from vlm.documents.passages import Passage
from vlm.passages_beside import may_be_there, stands_in

LIKELY = 0.2  # how likely a whole copy must be beside what it takes the place of
DOUBTED = 0.5  # below this probability "not in the documents" gives way


def whole_copy(
    candidates: Sequence[Alternative],
    question: str,
    passages: Sequence[Passage],
    is_everyday: Callable[[str], bool],
) -> Alternative:
    """The first of candidates for an answer, best first, or the whole copy of a passage that is taken in its place.

    Of an answer that a passage has as it stands, that is one which goes on before or behind it; of one that none has,
    one that shares a word with it; of "not in the documents" that is less likely than not, any. Words that are all
    `is_everyday` are the model's own, and no copy. Where a passage has all the words that the question asks by, the
    likeliest text of a passage is taken before "not in the documents", whatever its words.
    """
    best = candidates[0]
    words = _parts(best.text)
    denied = best.text.lower() == NOT_THERE
    there = denied and may_be_there(question, passages)
    if not there and (best.confidence >= DOUBTED if denied else _own(words, is_everyday)):
        return best
    stands = stands_in(best.text, passages)
    for other in candidates[1:]:
        copy = _parts(other.text)
        if denied:
            fits = there or not _own(copy, is_everyday)
        elif stands:
            fits = words in (copy[: len(words)], copy[-len(words) :])
        else:
            fits = bool(set(copy) & set(words))
        likely = there or other.confidence >= LIKELY * best.confidence
        if fits and likely and stands_in(other.text, passages):
            return other
    return best


def _own(words: Sequence[str], is_everyday: Callable[[str], bool]) -> bool:
    return all(is_everyday(word) and not word.isdecimal() for word in words)


def _parts(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())
