"""Things that a question names by their kind alone: "what is the animal called?", beside documents on dogs and cats.

Which of its kind is meant, the photo says. So the model is asked that first, without the documents, and its answer
takes the kind's place before the question is asked. What was put is told, never hidden.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlm.documents.passages import Passage
from vlm.passages_beside import stands_in

# Words that say of what kind a thing is, and are seldom its name or a property that is asked for.
_KINDS = "animal bird fruit insect instrument person pet vegetable vehicle"
_NAMED = re.compile(
    rf"\b(?P<before>the|this|that|whose) (?P<kind>{_KINDS.replace(' ', '|')})\b(?! of\b)"
    r"(?: (?:in|on) (?:the|this|that) (?:picture|photo|photograph|image)\b)?",
    re.IGNORECASE,
)
_PEOPLE = re.compile(r"\b(?:man|woman|boy|girl|child|kid|baby|toddler|lady|guy)$")
_SAYS_NOTHING = {"", "no", "none", "nothing", "yes", "unknown"}
# A name that passages have is taken before the photo's likeliest where it is this likely beside it.
LIKELY = 0.3


def kind_in(question: str) -> str | None:
    """The kind by which alone a question names a thing of the photo, in lower case, or None.

    "Which animal is this?" asks for the thing, and names none.
    """
    found = _NAMED.search(question)
    return None if found is None else found["kind"].lower()


def which(kind: str) -> str:
    """What is asked of a photo to learn which of its kind a thing is."""
    return "who is in the picture?" if kind == "person" else f"what {kind} is in the picture?"


def choose(
    kind: str, likely: Sequence[tuple[str, float]], passages: Sequence[Passage]
) -> str | None:
    """The thing's name among answers to `which` with their probabilities, in any order; None where they say nothing.

    It is the likeliest, unless passages tell of one that is nearly as likely: a photo's kayak is their canoe.
    """
    named = [(text.lower(), p) for text, p in likely if _names(text.lower(), kind)]
    if not named:
        return None
    named.sort(key=lambda one: -one[1])
    told = [text for text, p in named if p >= LIKELY * named[0][1] and stands_in(text, passages)]
    return (told or [named[0][0]])[0]


def with_name(question: str, name: str) -> str:
    """A question with a name in place of the thing's kind, and of "in the photo" behind it."""
    return _NAMED.sub(lambda found: f"{found['before']} {name}", question, count=1)


def _names(text: str, kind: str) -> bool:
    """Whether an answer names one of a kind; "who is in the picture?" may be answered with what a person holds."""
    if kind == "person":
        return _PEOPLE.search(text) is not None
    return text not in {*_SAYS_NOTHING, kind}
