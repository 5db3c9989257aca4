"""An Answer as JSON-ready records, and as a line to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm.captioner import Answer


def caption_record(path: str, answer: Answer) -> dict[str, Any]:
    """A caption, its words, and the candidates where several were asked for."""
    record: dict[str, Any] = {
        "image": path,
        "caption": answer.text,
        "score": answer.score,
        "words": [vars(word) for word in answer.words],
        "ms": answer.ms,
    }
    if answer.alternatives:
        others = answer.alternatives
        record["candidates"] = [
            {"caption": answer.text, "confidence": answer.confidence},
            *({"caption": other.text, "confidence": other.confidence} for other in others),
        ]
    return record


def answer_record(path: str, answer: Answer) -> dict[str, Any]:
    """An answer, its words and its alternatives."""
    return {
        "image": path,
        "question": answer.question,
        "answer": answer.text,
        "confidence": answer.confidence,
        "alternatives": [
            {"answer": other.text, "confidence": other.confidence} for other in answer.alternatives
        ],
        "words": [vars(word) for word in answer.words],
        "ms": answer.ms,
    }


def answer_line(answer: Answer, with_question: bool) -> str:
    """The answer and the others that have a chance, as in "two (64 %), or three (20 %), one (9 %)"."""
    line = f"{answer.text} ({answer.confidence:.0%})"
    others = [o for o in answer.alternatives if o.confidence >= 0.01]
    if others:
        line += ", or " + ", ".join(f"{o.text} ({o.confidence:.0%})" for o in others)
    return f"{answer.question} {line}" if with_question else line
