"""Captions of similar photos beside a photo, in which its things go by names that only their owner knows.

After SmallCap (Ramos et al. 2023): what was said of similar photos is read as passages, so names come into captions by
keeping more pairs, without training. Here names are invented, as in `invented_facts`, so none can be known by heart. A
decoder that reads such captions tends to say what most of them say, whatever the photo shows; so they are drawn at
random from a longer list (Li et al., "Understanding retrieval robustness for retrieval-augmented image captioning",
ACL 2024), and often most of them are about something else, by another name, which then must not be said.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence

from . import lexicon
from .invented_facts import Asked, Sheet, value_of
from .records import Record
from .synthetic import find_mentions

NAMEABLE = {**lexicon.ANIMALS, **lexicon.VEHICLES, **lexicon.PEOPLE}.keys() - {"person"}
LONGEST = 2_000  # captions kept of one thing
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")  # as `find_mentions` counts them
_ARTICLES = {"a", "an", "the", "one"}
_NO_MODIFIER = re.compile(r"(and|of|with|in|on|at|by|to|from|is|are|has|as|for|near|\w+s|\w*ing)$")
_NAMED = ("{v} the {n}", "{v} the {n}", "our {n} {v}", "the {n} called {v}", "{v}")

Pool = Mapping[str, Sequence[str]]
"""Captions in which a thing is named once, by its name."""


def captions_by_thing(records: Iterable[Record]) -> dict[str, list[str]]:
    """The pool of some records' captions."""
    pool: dict[str, list[str]] = {}
    for record in records:
        for text in record.texts if record.question is None else ():
            for thing in _nameable(text):
                if len(pool.setdefault(thing, [])) < LONGEST:
                    pool[thing].append(text)
    return pool


def named_sheet(
    records: Sequence[Record],
    pool: Pool,
    generator: random.Random,
    passages: int = 8,
    rows: int = 8,
    held_out: bool = False,
    alike: int | None = None,
    others: int | None = None,
) -> Sheet | None:
    """Captions of similar photos beside one image, and the captions to be written; None where no thing has a name.

    `alike` of the passages name one thing of the image, and as many as `others` another thing that it does not show;
    both are drawn where they are None. The rest have no names. The `fact` of what is asked is the name that is to be
    written, or, where passages name nothing of the image, the one that is not.
    """
    own = [text for r in records if r.question is None for text in r.texts]
    fitting = sorted({thing for text in own for thing in _nameable(text) if thing in pool})
    if not fitting:
        return None
    thing = generator.choice(fitting)
    elsewhere = _not_in(own, pool)
    other = generator.choice(elsewhere) if elsewhere else None
    count = generator.randint(min(3, passages), passages)
    if alike is None:
        alike = 0 if generator.random() < 0.3 else generator.randint(1, count)
    if others is None:
        others = 0 if generator.random() < 0.3 else generator.randint(0, passages - alike)
    if other is None:
        others = 0
    name, rival = [value_of("name", generator, held_out) for _ in range(2)]
    said = _said_of(thing, name, pool, generator, alike)
    if other is not None:
        said += _said_of(other, rival, pool, generator, others)
    plain = generator.sample(sorted(pool), min(len(pool), max(0, count - len(said))))
    said += [generator.choice(pool[of]) for of in plain]
    generator.shuffle(said)
    wanted = [text for text in own if thing in _nameable(text)] if alike else own
    written = [_called(text, thing, _target(thing), name) if alike else text for text in wanted]
    told = (thing, "name", name) if alike else (other or thing, "name", rival)
    kind = "named" if alike else "caption"
    asked = [Asked(None, text, kind, None, told) for text in written]
    return Sheet(tuple(said), tuple(generator.sample(asked, min(rows, len(asked)))))


def _said_of(thing: str, name: str, pool: Pool, generator: random.Random, count: int) -> list[str]:
    """Captions that name a thing; the first of several says what thing has the name."""
    texts = generator.sample(pool[thing], min(count, len(pool[thing])))
    forms = [_NAMED[0], *generator.choices(_NAMED, k=len(texts))]
    return [_called(text, thing, form, name) for text, form in zip(texts, forms)]


def _not_in(texts: Iterable[str], pool: Pool) -> list[str]:
    """Things of the pool that captions do not speak of; where they speak of people, no people."""
    named = {m.name for text in texts for m in find_mentions(_WORD.findall(text.lower()))}
    if named & lexicon.PEOPLE.keys():
        named |= lexicon.PEOPLE.keys()
    return sorted(pool.keys() - named)


def _target(thing: str) -> str:
    return "{v}" if thing in lexicon.PEOPLE else "{v} the {n}"


def _nameable(text: str) -> dict[str, tuple[int, int]]:
    """Things that a caption names once, as one, with an article, and the characters that name each."""
    words = list(_WORD.finditer(text.lower()))
    mentions = find_mentions([word[0] for word in words])
    names = [mention.name for mention in mentions]
    spans = {}
    for mention in mentions:
        if mention.name not in NAMEABLE or mention.plural or names.count(mention.name) > 1:
            continue
        start = mention.position - 1
        while start >= max(0, mention.position - 3) and words[start][0] not in _ARTICLES:
            if _NO_MODIFIER.match(words[start][0]):
                break
            start -= 1
        if start >= 0 and words[start][0] in _ARTICLES:
            spans[mention.name] = words[start].start(), words[mention.position].end()
    return spans


def _called(text: str, thing: str, form: str, name: str) -> str:
    """A caption in which a thing's name stands for it, behind its article gone: "Brolka the brown dog"."""
    start, stop = _nameable(text)[thing]
    described = text[start:stop].split(maxsplit=1)[1]
    called = form.format(v=name, n=described)
    return text[:start] + called + text[stop:]
