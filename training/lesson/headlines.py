"""Headlines of captions, made by rules: no person wrote or judged them, so what is learnt of them is the rules.

A headline says the first thing that a caption names, with its number and colour, what it does, and the next thing with
the preposition or verb in front of it: "A brown dog is running across the wet grass ." becomes "brown dog running
across grass". Names are those of `training.data.lexicon`: a puppy is a dog, two are 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ..data import lexicon
from ..data.records import Record
from ..data.synthetic import (
    ACTIONS,
    ADJECTIVES,
    COLOURS,
    DEEDS,
    DETERMINERS,
    Mention,
    find_mentions,
    plural,
)
from .pairs import AlignedPair

PREPOSITIONS = frozenset(
    (
        *("in", "on", "at", "with", "through", "across", "near", "by", "over", "under", "behind"),
        *("into", "onto", "along", "beside", "down", "up", "from", "around", "against"),
    )
)
OPENING = DETERMINERS | COLOURS | ADJECTIVES | lexicon.NUMBERS.keys() | {"and"}  # of a thing's name
Said = tuple[str, int]
"""A word of the headline and the place of the caption's word that it comes from."""


def headlines(records: Iterable[Record]) -> Iterator[AlignedPair]:
    """Each different caption that has a headline, with it."""
    seen: set[tuple[str, ...]] = set()
    for record in records:
        for text in record.texts:
            pair = headline(re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower()))
            if pair is not None and pair.source not in seen:
                seen.add(pair.source)
                yield pair


def headline(words: Sequence[str]) -> AlignedPair | None:
    """The headline of a caption's words, None where it would be one word or none."""
    mentions = find_mentions(words)
    if not mentions:
        return None
    first, *others = mentions
    said = [*_named(words, first), *_deed(words, first)]
    if others:
        said += _place(words, first, others[0])
    if len(said) < 2:
        return None
    links = frozenset((place, origin) for place, (_, origin) in enumerate(said))
    return AlignedPair(tuple(words), tuple(word for word, _ in said), links, links)


def _deed(words: Sequence[str], being: Mention) -> list[Said]:
    """What a person or animal does, where the verb stands behind it."""
    place = being.position + 1
    while place < len(words) and words[place] in ("is", "are", "that", "who"):
        place += 1
    moves = being.name in lexicon.PEOPLE | lexicon.ANIMALS and place < len(words)
    return [(ACTIONS[words[place]], place)] if moves and words[place] in ACTIONS else []


def _place(words: Sequence[str], first: Mention, other: Mention) -> list[Said]:
    """The preposition or verb in front of the next thing, and the thing."""
    place = other.position - 1
    while place > first.position and words[place] in OPENING:
        place -= 1
    link = DEEDS.get(words[place], words[place] if words[place] in PREPOSITIONS else None)
    if place == first.position or link is None:
        return []
    return [(link, place), *_named(words, other)]


def _named(words: Sequence[str], mention: Mention) -> list[Said]:
    """A thing's number, colours and name."""
    start = mention.position
    while start > 0 and words[start - 1] in COLOURS | ADJECTIVES | {"and"}:
        start -= 1
    said = []
    if start > 0 and words[start - 1] in lexicon.NUMBERS:
        said.append((lexicon.NUMBERS[words[start - 1]], start - 1))
    for place in range(start, mention.position):
        if words[place] in COLOURS:
            said.append((lexicon.COLOUR_SPELLINGS.get(words[place], words[place]), place))
    many = mention.plural and mention.name not in lexicon.ALWAYS_PLURAL
    return [*said, (plural(mention.name) if many else mention.name, mention.position)]
