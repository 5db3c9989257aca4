"""Passages of invented facts about things of a photo and other things, and questions about them.

No fact is true of anything, so none can be known by heart: names are made of syllables, numbers are drawn. A question
needs the passages alone, the photo alone, both (what "the animal in the picture" is called, where passages name several
animals), or neither has its answer, which is then `NOT_THERE`. A passage may also say that the photo shows something
else; then the answer names both. Facts of `held_out` sheets are about other names and numbers than all the rest.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from . import lexicon
from .invented_relations import MORE_THINGS, RELATIONS
from .records import Record
from .synthetic import read_scene

NOT_THERE = "not in the documents"

Fact = tuple[str, str, str]
"""A thing, a relation, and what is said of it."""

Claim = tuple[str, str]
"""A category, and the thing of it that a passage says the photo shows."""

Kind = str
"""What a question needs: "passage", "both", "image", "neither" or "contradiction".

What is no question is a "caption", or one with a "named" thing; see `named_captions`.
"""

KINDS: dict[Kind, float] = {
    "passage": 0.2,
    "both": 0.32,
    "image": 0.12,
    "neither": 0.2,
    "contradiction": 0.11,
    "caption": 0.05,
}
CATEGORIES: dict[str, dict[str, str]] = {
    "animal": lexicon.ANIMALS,
    "vehicle": lexicon.VEHICLES,
    "person": {name: "" for name in lexicon.PEOPLE if name != "person"},
    "thing": {**lexicon.THINGS, **dict.fromkeys(MORE_THINGS, "")},
}
NOUNS = sorted(name for members in CATEGORIES.values() for name in members)
MOST_FACTS = 3  # of a passage, so that none is cut
HELD_OUT = 5  # one of this many names and numbers


@dataclass(frozen=True)
class Asked:
    """A question, its answer, what it needs, and the passage that has the answer, by its place, or None.

    Without a question the answer is a caption.
    """

    question: str | None
    answer: str
    kind: Kind
    passage: int | None
    fact: Fact | None = None


@dataclass(frozen=True)
class Sheet:
    """What stands in the documents beside one image, and what is asked."""

    passages: tuple[str, ...]
    asked: tuple[Asked, ...]


_FILLERS = (
    "The list was made last week.",
    "Please do not touch anything.",
    "More can be read in the next chapter.",
    "The weather was good that day.",
    "All of this was written down by hand.",
    "Visitors often ask about it.",
    "There is a small shop near the door.",
    "It rained for most of the morning.",
    "The road was closed until noon.",
    "A letter about this was sent in May.",
    "For more than this there is no room on the page.",
    "Nobody remembers who began with it.",
    "Read the instructions before you start.",
    "Some of the pages are missing.",
    "Tea and cake are served in the afternoon.",
    "The second floor is closed for repairs.",
    "See also the table at the end of this report.",
    "That was long before the war.",
    "Children under ten pay half.",
    "Most of it has been forgotten since then.",
)
_OPENINGS = ("According to the documents, ", "Please tell me: ", "Do you know: ")
_CLAIMS = ("The photo shows a {n}.", "In the picture there is a {n}.", "This is a photo of a {n}.")
_WHAT = {
    "animal": ("What animal is in the picture?", "Which animal is this?"),
    "vehicle": ("What vehicle is in the picture?", "What kind of vehicle is this?"),
}


def value_of(relation: str, generator: random.Random, held_out: bool) -> str:
    """What a fact says: one of those that are held out, or one of the others."""
    while True:
        value = RELATIONS[relation].value(generator)
        if (zlib.crc32(value.encode()) % HELD_OUT == 0) is held_out:
            return value


def things_of(records: Sequence[Record]) -> dict[str, set[str]]:
    """What captions of one image name, by category."""
    named: set[str] = set()
    for record in records:
        if record.question is None:
            for _, mentions in read_scene(record).captions:
                named |= {mention.name for mention in mentions}
    return {category: named & members.keys() for category, members in CATEGORIES.items()}


def sheet(
    records: Sequence[Record],
    generator: random.Random,
    passages: int = 8,
    questions: int = 6,
    held_out: bool = False,
    kinds: dict[Kind, float] | None = None,
) -> Sheet:
    """Passages beside the image of some records, and questions; fewer of these where a kind does not fit the image."""
    there = things_of(records)
    only = {category: next(iter(names)) for category, names in there.items() if len(names) == 1}
    shown = {category: name for category, name in only.items() if category != "thing"}
    facts: list[Fact] = []
    used: set[tuple[str, str]] = set()

    def add(thing: str, relation: str) -> None:
        if (thing, relation) not in used:
            used.add((thing, relation))
            facts.append((thing, relation, value_of(relation, generator, held_out)))

    claims: list[Claim] = []
    can_deny = [category for category in shown if category in _WHAT]
    if can_deny and generator.random() < 0.3:
        category = generator.choice(can_deny)
        others = [name for name in CATEGORIES[category] if name not in there[category]]
        claims.append((category, generator.choice(others)))
    if shown:
        category, name = generator.choice(sorted(shown.items()))
        relation = generator.choice(sorted(RELATIONS))
        add(name, relation)
        rivals = [other for other in CATEGORIES[category] if other not in there[category]]
        for other in generator.sample(rivals, min(generator.randint(1, 3), len(rivals))):
            add(other, relation)
    size = max(1, generator.randint(passages // 2, passages) - len(claims))
    crowded = generator.choice((4 / 3, 4 / 3, 4 / 3, MOST_FACTS - 0.5))  # facts a passage
    while len(facts) < size * crowded:
        thing = generator.choice(
            [*sorted(set().union(*there.values())), *generator.sample(NOUNS, 6)]
        )
        add(thing, generator.choice(sorted(RELATIONS)))
    # Some passages hold two facts: what is asked for is to be found among other words.
    together = [[fact] for fact in facts[:size]]
    for fact in facts[size:]:
        room = [own for own in together if len(own) < MOST_FACTS]
        of_the_same = [own for own in room if own[-1][0] == fact[0]]
        generator.choice(of_the_same or room or together).append(fact)
    texts: list[tuple[str, Sequence[Fact | Claim]]] = [
        (_said(own, generator), own) for own in together
    ]
    texts += [(generator.choice(_CLAIMS).format(n=claim[1]), [claim]) for claim in claims]
    generator.shuffle(texts)
    place = {fact: number for number, (_, own) in enumerate(texts) for fact in own}

    asked: list[Asked] = []
    weights = KINDS if kinds is None else kinds
    for kind in generator.choices(list(weights), list(weights.values()), k=3 * questions):
        made = _ask(kind, records, facts, place, claims, shown, generator)
        if made is not None and made.question not in {other.question for other in asked}:
            asked.append(made)
        if len(asked) == questions:
            break
    return Sheet(tuple(text for text, _ in texts), tuple(asked))


def rival(fact: Fact, generator: random.Random, held_out: bool, known: set[str]) -> tuple[str, str]:
    """A passage that says the same of another thing of the same category, none of `known`, and what it says."""
    thing, relation, _ = fact
    members = next(own for own in CATEGORIES.values() if thing in own)
    other = generator.choice(sorted(set(members) - {thing} - known))
    value = value_of(relation, generator, held_out)
    return _said([(other, relation, value)], generator), value


def _said(facts: Sequence[Fact], generator: random.Random) -> str:
    parts: list[str] = []
    before = ""
    for thing, relation, value in facts:
        form = generator.choice(RELATIONS[relation].says)
        # What is said of the same thing next, is said of "it".
        again = thing == before and thing not in CATEGORIES["person"]
        if again and form.startswith(("The {n} ", "The {n}'s ")):
            form = form.replace("The {n}'s", "Its").replace("The {n}", "It")
            parts[-1] += " " + form.format(v=value)
        else:
            parts.append(form.format(n=thing, v=value))
        before = thing
    for _ in range(generator.choice((0, 0, 0, 1, 1, 2)) if len(facts) < MOST_FACTS else 0):
        parts.insert(generator.randint(0, len(parts)), generator.choice(_FILLERS))
    return " ".join(parts)


def _ask(
    kind: Kind,
    records: Sequence[Record],
    facts: Sequence[Fact],
    place: dict[Fact | Claim, int],
    claims: Sequence[Claim],
    shown: dict[str, str],
    generator: random.Random,
) -> Asked | None:
    """One question of a kind, or None where there is none about this image."""
    if kind == "caption":
        captions = [text for r in records if r.question is None for text in r.texts]
        return Asked(None, generator.choice(captions), kind, None) if captions else None
    if kind == "image":
        questions = [r for r in records if r.question is not None]
        if not questions:
            return None
        record = generator.choice(questions)
        claimed = {category for category, _ in claims}
        assert record.question is not None
        if any(category in record.question.lower() for category in claimed):
            return None
        answer = max(record.texts, key=list(record.texts).count)
        return Asked(record.question, answer, kind, None)
    if kind == "contradiction":
        for claim in claims:
            category, claimed_name = claim
            answer = f"{shown[category]}, but the documents say {claimed_name}"
            return Asked(generator.choice(_WHAT[category]), answer, kind, place[claim])
        return None
    if kind == "neither":
        known = {(thing, relation) for thing, relation, _ in facts}
        if shown and generator.random() < 0.35:  # of what the photo shows there is no such fact
            category, name = generator.choice(sorted(shown.items()))
            relation = generator.choice([fact[1] for fact in facts])
            if (name, relation) in known:
                return None
            return Asked(
                _asks(relation, _in_photo(category, generator), generator), NOT_THERE, kind, None
            )
        # Often about a thing or of a kind that passages have, each with something else.
        thing = generator.choice(facts)[0] if generator.random() < 0.6 else generator.choice(NOUNS)
        relation = generator.choice(
            [generator.choice(facts)[1], generator.choice(sorted(RELATIONS))]
        )
        if (thing, relation) in known:
            return None
        return Asked(_asks(relation, thing, generator), NOT_THERE, kind, None)
    if kind == "both":
        fitting = [
            (fact, category)
            for fact in facts
            for category, name in shown.items()
            if fact[0] == name
        ]
        if not fitting:
            return None
        fact, category = generator.choice(fitting)
        thing = _in_photo(category, generator)
        return Asked(_asks(fact[1], thing, generator), fact[2], kind, place[fact], fact)
    fact = generator.choice(list(facts))
    return Asked(_asks(fact[1], fact[0], generator), fact[2], kind, place[fact], fact)


def _in_photo(category: str, generator: random.Random) -> str:
    where = generator.choice((" in the picture", " in the photo", ""))
    return category + where


def _asks(relation: str, thing: str, generator: random.Random) -> str:
    forms = RELATIONS[relation].asks
    fitting = [form for form in forms if "in the" not in thing or form.endswith("{n}?")] or forms
    question = generator.choice(list(fitting)).format(n=thing)
    if generator.random() < 0.1:
        question = generator.choice(_OPENINGS) + question[0].lower() + question[1:]
    return question.rstrip("?") if generator.random() < 0.15 else question
