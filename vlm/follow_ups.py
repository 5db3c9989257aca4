"""Questions of a conversation that lean on the one before: "what is it called?" after "what color is the dog?".

The model answers single questions, so a pronoun is put into words before it is asked: the thing that the latest turns
were about takes its place. What was put is told, never hidden.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_PRONOUN = re.compile(
    r"\b(it|he|she|they|this one|that one|this|that|him|them|its|his|her|their)\b", re.IGNORECASE
)
_OWNING = {"its", "his", "their"}
# "that dog" and "this picture" name what they mean; "her hat" is a thing of hers, "about her" is not.
_WITH_NOUN = {"this", "that", "her"}
_VERBS = (
    "is are was were do does did can could has have had will would be being called doing made wearing holding eating "
    "riding looking standing sitting lying in on at of to from with for and or there here so too now cost weigh come "
    "look eat like belong"
)
_THING = re.compile(
    rf"\b(?:the|a|an) ((?:[a-z'-]+ ){{0,2}}?[a-z'-]+?)(?='s\b|\?|$| (?:{_VERBS.replace(' ', '|')})\b)"
)
_NO_THING = (
    "picture photo image background foreground middle left right front back color colour name"
)
_NAMES_THING = re.compile(
    r"^(?:what|which)\b(?!.*\b(?:color|colour|time|many|much|doing|kind of day)\b)"
)


@dataclass(frozen=True)
class Turn:
    """A question of a conversation and its answer."""

    question: str
    answer: str


def follow_up(question: str, turns: Sequence[Turn]) -> str:
    """A question with its first pronoun put into words by the latest turn that names a thing; else as it is."""
    match = next((m for m in _PRONOUN.finditer(question) if _leans(question, m)), None)
    # "is the man holding his hat?" names whose hat it is.
    if match is None or _THING.search(question[: match.start()].lower()):
        return question
    for turn in reversed(turns):
        if (thing := thing_of(turn)) is not None:
            owning = match[1].lower() in _OWNING or (
                match[1].lower() == "her" and _noun_follows(question, match)
            )
            named = f"the {thing}'s" if owning else f"the {thing}"
            if match.start() == 0:
                named = named.capitalize()
            return question[: match.start()] + named + question[match.end() :]
    return question


def thing_of(turn: Turn) -> str | None:
    """What a turn was about: what its answer names, where it was asked for a thing, or what its question names."""
    asked = turn.question.lower().strip()
    answer = re.sub(r"^(?:the|a|an|two|three|some) ", "", turn.answer.lower().strip(" ."))
    names = [m[1].strip() for m in _THING.finditer(asked)]
    things = [name for name in names if name.split()[-1] not in _NO_THING.split()]
    if things:
        return things[0]
    plain = re.fullmatch(r"[a-z'-]+(?: [a-z'-]+)?", answer)
    if _NAMES_THING.match(asked) and plain and answer not in ("yes", "no", "nothing"):
        return answer
    return None


def _leans(question: str, match: re.Match[str]) -> bool:
    """Whether a pronoun stands for something that was said before, and not for what follows it."""
    word = match[1].lower()
    if word not in _WITH_NOUN:
        # "is it raining" is about the weather, "is it a dog" about what is seen.
        return not re.match(
            r"^(?:is|was) it (?:a|an|raining|snowing|sunny|dark|day|night)\b", question.lower()
        )
    return not _noun_follows(question, match) or word == "her"


def _noun_follows(question: str, match: re.Match[str]) -> bool:
    following = re.match(r"\s+([a-z'-]+)", question[match.end() :].lower())
    return following is not None and following[1] not in _VERBS.split()
