"""Things that a question names by their kind alone: "what is the animal called?", beside documents on dogs and cats.

Which of its kind is meant, the photo says. So the model is asked that first, without the documents, and its answer
takes the kind's place before the question is asked. What was put is told, never hidden.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_KINDS = (
    "animal bird building device dish drink flower food fruit furniture game insect instrument meal person pet plant "
    "room sport toy tree vegetable vehicle"
)
_NAMED = re.compile(
    rf"\b(?P<kind>{_KINDS.replace(' ', '|')})\b"
    r"(?: (?:in|on) (?:the|this|that) (?:picture|photo|photograph|image)\b)?",
    re.IGNORECASE,
)
_ASKED_FOR = re.compile(r"\b(?:what|which|(?:kind|sort|type|breed) of|a|an|any)\s+$", re.IGNORECASE)
_PEOPLE = re.compile(r"\b(?:man|woman|boy|girl|child|kid|baby|toddler|lady|guy)$")
_SAYS_NOTHING = {"", "no", "none", "nothing", "yes", "unknown"}
# A name that passages have is taken before the photo's likeliest where it is this likely beside it.
LIKELY = 0.3


def kind_in(question: str) -> str | None:
    """The kind by which alone a question names a thing of the photo, in lower case, or None.

    "Which animal is this?" asks for the thing, and names none.
    """
    found = _place(question)
    return None if found is None else found["kind"].lower()


def which(kind: str) -> str:
    """What is asked of a photo to learn which of its kind a thing is."""
    return "who is in the picture?" if kind == "person" else f"what {kind} is in the picture?"


def choose(kind: str, likely: Sequence[tuple[str, float]], passages: Sequence[str]) -> str | None:
    """The thing's name among answers to `which` with their probabilities, in any order; None where they say nothing.

    It is the likeliest, unless passages tell of one that is nearly as likely: a photo's kayak is their canoe.
    """
    named = [(text.lower(), p) for text, p in likely if _names(text.lower(), kind)]
    if not named:
        return None
    named.sort(key=lambda one: -one[1])
    told = [
        text
        for text, p in named
        if p >= LIKELY * named[0][1] and any(_has(passage, text) for passage in passages)
    ]
    return (told or [named[0][0]])[0]


def tells_of(kind: str, passages: Sequence[str]) -> bool:
    """Whether passages speak of a thing by its kind themselves, which then needs no other name."""
    return any(_has(passage, kind) for passage in passages)


def with_name(question: str, name: str) -> str:
    """A question with a name in place of the thing's kind, and of "in the photo" behind it."""
    found = _place(question)
    return question if found is None else question[: found.start()] + name + question[found.end() :]


def _place(question: str) -> re.Match[str] | None:
    places = _NAMED.finditer(question)
    return next((m for m in places if not _ASKED_FOR.search(question[: m.start()])), None)


def _names(text: str, kind: str) -> bool:
    """Whether an answer names one of a kind; "who is in the picture?" may be answered with what a person holds."""
    if kind == "person":
        return _PEOPLE.search(text) is not None
    return text not in {*_SAYS_NOTHING, kind}


def _has(passage: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", passage, re.IGNORECASE) is not None
