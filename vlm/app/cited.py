"""What an answer beside documents rests on, as the page shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vlm.answers import Answer
from vlm.citations import ground_of, sources


def evidence_view(answer: Answer) -> dict[str, Any] | None:
    """What `ground` an answer has, the place of the `cited` one among its `sources`, and these, a photo first.

    A source of text has `pieces` in place of `words`: its whole text, in parts. None where no passages stand beside the
    image. Takes passes of the model the first time.
    """
    found = answer.evidence
    if found is None:
        return None
    shown = sources(found)
    for source, use in zip(shown, found.sources, strict=True):
        if "words" in source:
            del source["words"]
            source["pieces"] = pieces(source["text"], use.words)
    ground = ground_of(answer.text, found)
    cited = None
    if ground == "passage":
        cited = [use.passage for use in found.sources].index(found.cited)
    return {"ground": ground, "cited": cited, "sources": shown}


def pieces(text: str, words: Sequence[tuple[str, float]]) -> list[tuple[str, float | None]]:
    """A text in parts, each with its light in 0..1: of the words that it has in this order, 1 for the largest share.

    A model may read a text in small letters, or a part of it alone; what it has not read has None.
    """
    most = max((share for _, share in words), default=0.0) or 1.0
    in_a_row = re.search(r"\s*".join(re.escape(word) for word, _ in words), text, re.IGNORECASE)
    at = in_a_row.start() if in_a_row else 0
    parts: list[tuple[str, float | None]] = []
    end = 0
    for word, share in words:
        match = re.compile(re.escape(word), re.IGNORECASE).search(text, at)
        if match is None:
            continue
        if match.start() > end:
            parts.append((text[end : match.start()], None))
        parts.append((match.group(), round(share / most, 3)))
        at = end = match.end()
    if end < len(text):
        parts.append((text[end:], None))
    return parts
