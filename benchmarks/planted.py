"""A corpus to search: passages of invented facts about invented places, and questions that each one passage answers.

No fact is true, so none is known by heart. A place has many things and a thing has several passages with other facts,
all said in the same few ways: a question meets distractors that share its place, its thing or what it asks for. What it
asks for is said in other words than the passage has, and the thing by the same word, or by another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PER_FILE = 100  # passages

# What a passage calls a thing, and what a question does.
_THINGS = (
    ("mill", "mill"),
    ("harbour", "port"),
    ("church tower", "steeple"),
    ("bridge", "bridge"),
    ("library", "library"),
    ("railway station", "train station"),
    ("brewery", "brewery"),
    ("lighthouse", "lighthouse"),
    ("town hall", "city hall"),
    ("prison", "jail"),
    ("theatre", "playhouse"),
    ("market square", "market place"),
    ("hospital", "clinic"),
    ("fountain", "fountain"),
    ("museum", "museum"),
    ("shipyard", "dockyard"),
)
# How a passage says a fact, and how a question asks for it; `{t}` is the thing, `{v}` the answer.
_FACTS = (
    ("The {t} was built by {v}, who never saw it finished.", "who constructed the {t}?"),
    ("Work on the {t} began in {v} after a long quarrel.", "in which year was the {t} started?"),
    ("The {t} cost {v} crowns in the money of its time.", "how expensive was the {t}?"),
    ("Its keeper {v} looked after the {t} for half a life.", "who was the caretaker of the {t}?"),
    ("Some {v} people visit the {t} in a good summer.", "how many tourists come to the {t}?"),
    ("A fire that {v} had set destroyed the roof of the {t}.", "who burnt the {t}?"),
    (
        "The stone of the {t} was brought from the quarry of {v}.",
        "where is the rock of the {t} from?",
    ),
    (
        "Today the {t} belongs to the family {v}, which lives abroad.",
        "who is the owner of the {t}?",
    ),
)
_PADDING = (
    "The road to it is narrow, and in winter the snow closes it for weeks.",
    "Old people still tell the story on long evenings by the stove.",
    "A small sign beside the door explains all this to those who stop.",
    "Nobody has ever written down how the neighbours took the news.",
    "From the hill behind it one sees the river and the fields beyond.",
    "In the archive there is a drawing of it in brown ink, much faded.",
)
_SYLLABLES = (
    *("bar", "dol", "fen", "gri", "hus", "jor", "kel", "lum", "mor", "nav"),
    *("ost", "pel", "quil", "rad", "sten", "tor", "ulm", "vex", "wim", "zan"),
)


class Question(NamedTuple):
    """What is asked, by the passage's name of the thing and by another, and the one sentence that answers it."""

    named: str
    in_other_words: str
    answer: str


class Planted(NamedTuple):
    """One passage, and a question about one of its facts."""

    text: str
    question: Question


def planted(count: int, seed: int = 0) -> Iterator[Planted]:
    """So many passages of 40 to 60 words, each with two facts of a thing of a place."""
    draw = random.Random(seed)
    places = ["".join(draw.sample(_SYLLABLES, 3)).capitalize() for _ in range(max(1, count // 40))]
    slots = [
        (place, thing, pair)
        for place in places
        for thing in range(len(_THINGS))
        for pair in range(len(_FACTS) // 2)
    ]
    for place, thing, pair in draw.sample(slots, count):
        said, asked = (f"{name} of {place}" for name in _THINGS[thing])
        ways = _FACTS[2 * pair : 2 * pair + 2]
        values = [_value(draw, way) for way, _ in ways]
        facts = [way.format(t=said, v=value) for (way, _), value in zip(ways, values)]
        text = " ".join(draw.sample([*facts, *draw.sample(_PADDING, 2)], 4))
        chosen = draw.randrange(2)
        named, in_other_words = (ways[chosen][1].format(t=name) for name in (said, asked))
        yield Planted(text, Question(named, in_other_words, facts[chosen]))


def write_corpus(folder: Path, count: int, seed: int = 0) -> list[Question]:
    """Write passages into text files, PER_FILE in each, and return their questions."""
    questions = []
    texts: list[str] = []
    for number, (text, question) in enumerate(planted(count, seed), start=1):
        texts.append(text)
        questions.append(question)
        if number % PER_FILE == 0 or number == count:
            (folder / f"{number:07d}.txt").write_text("\n\n".join(texts) + "\n")
            texts = []
    return questions


def _value(draw: random.Random, way: str) -> str:
    if "began in" in way:
        return str(draw.randint(1500, 1990))
    if "cost" in way or "visit" in way:
        return f"{draw.randint(12, 980) * 100:,}"
    name = " ".join("".join(draw.sample(_SYLLABLES, 2)).capitalize() for _ in range(2))
    return name.split()[0] if "quarry" in way or "family" in way else name
