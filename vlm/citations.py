"""What an answer beside documents rests on, in words and as JSON has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

# Types alone: what renders answers must not wait for torch.
if TYPE_CHECKING:
    from vlm.documents.passages import Passage
    from vlm.explain.evidence import Evidence

NOT_THERE = "not in the documents"
"""What a model answers where neither the photo nor a passage has it."""

FROM_NOTHING = "not from the documents"
"""What an answer to a question without a photo rests on, where that is no passage."""


def ground_of(text: str, found: Evidence) -> Literal["passage", "photo", "nothing", "not there"]:
    """What an answer rests on; "not there" where the model says itself that it rests on nothing."""
    return "not there" if text.lower() == NOT_THERE else found.ground


def cited(text: str, found: Evidence) -> str:
    """What an answer rests on, in words."""
    ground = ground_of(text, found)
    if ground == "passage":
        assert found.cited is not None
        return f"stands in {place_of(found.passages[found.cited])}"
    nothing = "from neither the photo nor the documents" if found.has_photo else FROM_NOTHING
    return {"photo": "from the photo", "nothing": nothing}.get(ground, NOT_THERE)


def sources(found: Evidence) -> list[dict[str, Any]]:
    """What each source did for an answer, JSON-ready."""
    told: list[dict[str, Any]] = []
    for use in found.sources:
        use_of: dict[str, Any] = {"source": "photo", "share": use.share, "lost": use.lost}
        if use.passage is not None:
            passage = found.passages[use.passage]
            use_of |= {
                "source": passage.source,
                "page": passage.page,
                "start": passage.start,
                "end": passage.end,
                "text": passage.text,
                "words": [{"text": word, "share": share} for word, share in use.words],
            }
        told.append(use_of)
    return told


def place_of(passage: Passage) -> str:
    """Where a passage stands, to read: "notes.pdf, page 3"."""
    return passage.source if passage.page is None else f"{passage.source}, page {passage.page}"
