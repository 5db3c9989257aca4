"""Questions made from captions by rules, so that captioned images also teach answering.

The method, for the captions of one image (all word lists are in `lexicon.py`):

1. A *mention* is an object's name in a caption, unless it is part of another thing's name ("dog
   toy") or not the thing itself ("a statue of a dog"). The words before it give its colour and its
   number; a noun before a verb of `ACTIONS` or `DEEDS` gives what it does.
2. *colour*, *action* and *object* questions need an answer in two captions at least (or in the only
   caption) and one answer that more than half of those captions share. All answers become texts,
   one for each caption, as annotators' answers are. Colours are not asked of people.
3. *count* questions, of people, animals and vehicles, need two captions that give the number and
   none that leaves it open or gives another one.
4. Of the questions so far, the most frequent answer to a question is kept only as often as all its
   other answers together: the question alone must not tell the answer ("What animal ...?": dog).
5. *yes/no*: "yes" needs a mention in two captions. "no" is asked about an object of which no
   caption has a name or a word that leaves it open ("animal" for a dog, "street" for a car). Every
   object has as many questions answered "no" as "yes".

There is no model in it. Every record is marked `synthetic` and its source ends in "/synthetic".
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from . import lexicon
from .records import Record


@dataclass(frozen=True)
class Mention:
    """An object named in a caption, with what the words before it say."""

    name: str
    plural: bool
    position: int
    colour: str | None = None
    number: str | None = None


@dataclass(frozen=True)
class Scene:
    """The captions of one image, read."""

    record: Record
    words: frozenset[str]
    captions: tuple[tuple[list[str], list[Mention]], ...]  # the words and mentions of each


def questions_from_captions(records: Iterable[Record], seed: int = 0) -> list[Record]:
    """Return questions about the images of caption records; other records are passed over.

    The result is a function of the records and the seed. It takes all records at once because the
    balance of "yes" and "no" is over all images. Kinds: colour, action, object, count, yes/no.
    """
    generator = random.Random(f"{seed}/synthetic")
    scenes = [read_scene(record) for record in records if record.question is None]
    open_ended = [
        record
        for scene in scenes
        for ask in (_colours, _actions, _deeds, _categories, _counts)
        for record in ask(scene)
    ]
    return _without_favourites(open_ended, generator) + _presence(scenes, generator)


def read_scene(record: Record) -> Scene:
    """Find the words and mentions of a record's captions."""
    tokens = [re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower()) for text in record.texts]
    captions = tuple((words, find_mentions(words)) for words in tokens)
    return Scene(record, frozenset(word for words in tokens for word in words), captions)


def find_mentions(words: Sequence[str]) -> list[Mention]:
    """Return the objects that a caption's words name."""
    found = []
    for i, word in enumerate(words):
        if word not in FORMS or word in VERB_LIKE:
            continue
        following = words[i + 1] if i + 1 < len(words) else ""
        if following in HEADS or (following in FORMS and following not in VERB_LIKE):
            continue  # part of another thing's name
        start = i
        while start > 0 and words[start - 1] in COLOURS | ADJECTIVES | {"and"}:
            start -= 1
        if NOT_REAL & set(words[max(0, start - 3) : i]):
            continue
        before = words[start - 1] if start > 0 else ""
        name, plural = FORMS[word]
        number = "1" if before in ("a", "an", "one") else lexicon.NUMBERS.get(before)
        found.append(Mention(name, plural, i, _colour(words[start:i]), number))
    return found


def _colour(modifiers: Sequence[str]) -> str | None:
    """The colour in the words before a noun: "brown", or "black and white"; None if unclear."""
    colours = [lexicon.COLOUR_SPELLINGS.get(word, word) for word in modifiers if word in COLOURS]
    joined = " and ".join(colours)
    if len(colours) == 2 and not re.search(rf"{colours[0]} and", " ".join(modifiers)):
        return None
    return joined if 0 < len(colours) <= 2 else None


def _colours(scene: Scene) -> Iterator[Record]:
    colours: dict[str, list[str]] = defaultdict(list)
    for name, mentions in _single_mentions(scene):
        if name not in lexicon.PEOPLE and mentions[0].colour:
            colours[name].append(mentions[0].colour)
    for name, answers in colours.items():
        verb = "are" if name in lexicon.ALWAYS_PLURAL else "is"
        yield from _agreed(scene, f"What color {verb} the {name}?", answers, "colour", name)


def _actions(scene: Scene) -> Iterator[Record]:
    actions: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for subject, rest in _subjects(scene):
        if rest and rest[0] in ACTIONS:
            actions[subject.name, subject.plural].append(ACTIONS[rest[0]])
    for (name, plural), answers in actions.items():
        question = f"What {'are' if plural else 'is'} the {_form(name, plural)} doing?"
        yield from _agreed(scene, question, answers, "action", _form(name, plural))


def _deeds(scene: Scene) -> Iterator[Record]:
    done: dict[tuple[str, bool, str], list[str]] = defaultdict(list)
    for subject, rest in _subjects(scene):
        if not rest or rest[0] not in DEEDS:
            continue
        things = find_mentions(rest[1:])
        between = rest[1 : things[0].position + 1] if things else ["?"]
        if all(word in COLOURS | ADJECTIVES | DETERMINERS for word in between):
            done[subject.name, subject.plural, DEEDS[rest[0]]].append(things[0].name)
    for (name, plural, deed), answers in done.items():
        question = f"What {'are' if plural else 'is'} the {_form(name, plural)} {deed}?"
        yield from _agreed(scene, question, answers, "object", f"{_form(name, plural)}-{deed}")


def _categories(scene: Scene) -> Iterator[Record]:
    for category, members in (("animal", lexicon.ANIMALS), ("vehicle", lexicon.VEHICLES)):
        named = [{m.name for m in mentions} & members.keys() for _, mentions in scene.captions]
        answers = [name for names in named for name in names]
        if len(set(answers)) == 1:
            question = f"What {category} is in the picture?"
            yield from _agreed(scene, question, answers, "object", category)


def _counts(scene: Scene) -> Iterator[Record]:
    numbers: dict[str, list[str | None]] = defaultdict(list)
    for name, mentions in _mentions_by_name(scene):
        # A second mention in one caption leaves the number open, as a bare plural does.
        numbers[name].append(mentions[0].number if len(mentions) == 1 else None)
    for name, given in numbers.items():
        known = [number for number in given if number]
        if name in COUNTED and len(set(known)) == 1 and None not in given:
            question = f"How many {_form(name, True)} are there?"
            yield from _agreed(scene, question, known, "count", name)


def _without_favourites(records: Sequence[Record], generator: random.Random) -> list[Record]:
    """Keep the most frequent answer to each question as often as all its other answers."""
    by_question: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, record in enumerate(records):
        answer = Counter(record.texts).most_common(1)[0][0]
        by_question[record.question or ""][answer].append(i)
    dropped: set[int] = set()
    for by_answer in by_question.values():
        favourite = max(by_answer.values(), key=len)
        others = sum(map(len, by_answer.values())) - len(favourite)
        dropped.update(generator.sample(favourite, max(0, len(favourite) - others)))
    return [record for i, record in enumerate(records) if i not in dropped]


def _presence(
    scenes: Sequence[Scene], generator: random.Random, per_image: int = 3
) -> list[Record]:
    """Ask whether an object is there, with as many "no" as "yes" for every object."""
    yes: dict[str, list[Scene]] = defaultdict(list)
    for scene in scenes:
        captions_with = Counter(name for name, _ in _mentions_by_name(scene))
        least = min(2, len(scene.captions))
        names = sorted(name for name, count in captions_with.items() if count >= least)
        for name in generator.sample(names, min(per_image, len(names))):
            yes[name].append(scene)
    wanted = {name: len(found) for name, found in yes.items()}
    no: dict[str, list[Scene]] = defaultdict(list)
    for scene in generator.sample(scenes, len(scenes)):
        absent = [name for name in wanted if not OPEN_TO[name] & scene.words]
        for _ in range(per_image):
            absent = [name for name in absent if wanted[name]]
            if not absent:
                break
            (name,) = generator.choices(absent, [wanted[name] for name in absent])
            absent.remove(name)
            no[name].append(scene)
            wanted[name] -= 1
    records = []
    for name, found in yes.items():
        for scene in generator.sample(found, len(no[name])):
            records.append(
                _ask(scene, _presence_question(name, generator), ("yes",), "yes/no", name)
            )
        for scene in no[name]:
            records.append(
                _ask(scene, _presence_question(name, generator), ("no",), "yes/no", name)
            )
    return records


def _presence_question(name: str, generator: random.Random) -> str:
    plural = name in lexicon.ALWAYS_PLURAL
    article = "an " if name[0] in "aeiou" else "a "
    thing = name if plural or name in lexicon.SUBSTANCES else article + name
    verb = "Are" if plural else "Is"
    forms = (f"{verb} there {thing} in the picture?", f"{verb} there {thing}?")
    return generator.choice([*forms, f"Do you see {thing}?", f"Can you see {thing}?"])


def _mentions_by_name(scene: Scene) -> Iterator[tuple[str, list[Mention]]]:
    """Yield (name, its mentions) for each caption and each object in it."""
    for _, mentions in scene.captions:
        grouped: dict[str, list[Mention]] = defaultdict(list)
        for mention in mentions:
            grouped[mention.name].append(mention)
        yield from grouped.items()


def _single_mentions(scene: Scene) -> list[tuple[str, list[Mention]]]:
    """The objects of which every caption that has them names exactly one."""
    named = list(_mentions_by_name(scene))
    many = {
        name
        for name, mentions in named
        if len(mentions) > 1
        or mentions[0].number not in (None, "1")
        or (mentions[0].plural and name not in lexicon.ALWAYS_PLURAL)
    }
    return [(name, mentions) for name, mentions in named if name not in many]


def _subjects(scene: Scene) -> Iterator[tuple[Mention, list[str]]]:
    """Yield people and animals that a caption has once, with the words of what they do."""
    for words, mentions in scene.captions:
        beings = [m for m in mentions if m.name in lexicon.PEOPLE | lexicon.ANIMALS]
        for mention in beings:
            if sum(other.name == mention.name for other in beings) > 1:
                continue
            rest = words[mention.position + 1 :]
            while rest and rest[0] in ("is", "are", "that", "who"):
                rest = rest[1:]
            yield mention, list(rest)


def _agreed(
    scene: Scene, question: str, answers: list[str], kind: str, name: str
) -> Iterator[Record]:
    """Yield the question if enough captions answer it and most of them agree."""
    top = Counter(answers).most_common(1)[0][1]
    if len(answers) >= min(2, len(scene.captions)) and top > len(answers) / 2:
        yield _ask(scene, question, tuple(answers), kind, name)


def _ask(scene: Scene, question: str, texts: tuple[str, ...], kind: str, name: str) -> Record:
    return replace(
        scene.record,
        texts=texts,
        question=question,
        id=f"{scene.record.id}#{kind}-{name}",
        source=f"{scene.record.source}/synthetic",
        kind=kind,
        synthetic=True,
    )


def plural(name: str) -> str:
    if name in lexicon.IRREGULAR_PLURALS:
        return lexicon.IRREGULAR_PLURALS[name]
    if re.search(r"(s|x|ch|sh)$", name):
        return name + "es"
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + "s"


def _form(name: str, many: bool) -> str:
    return plural(name) if many and name not in lexicon.ALWAYS_PLURAL else name


def _forms() -> dict[str, tuple[str, bool]]:
    """Map every word for an object to its name and whether the word is a plural."""
    forms: dict[str, tuple[str, bool]] = {}
    for name, others in lexicon.OBJECTS.items():
        for word in (name, *others.split()):
            if name in lexicon.SUBSTANCES:
                forms[word] = (name, False)
            elif name in lexicon.ALWAYS_PLURAL:
                forms[word] = (name, True)
            else:
                forms.setdefault(plural(word), (name, True))
                forms[word] = (name, False)
    return forms


def _by_form(table: dict[str, str]) -> dict[str, str]:
    """Map every form of a verb to the verb in -ing."""
    return {form: name for name, forms in table.items() for form in (name, *forms.split())}


FORMS = _forms()
ACTIONS = _by_form(lexicon.ACTIONS)
DEEDS = _by_form(lexicon.DEEDS)
COLOURS = frozenset(lexicon.COLOURS.split()) | lexicon.COLOUR_SPELLINGS.keys()
ADJECTIVES = frozenset(lexicon.ADJECTIVES.split())
DETERMINERS = frozenset(("a", "an", "the", "his", "her", "its", "their", "one", "some"))
HEADS = frozenset(lexicon.HEADS.split())
NOT_REAL = frozenset(lexicon.NOT_REAL.split())
VERB_LIKE = frozenset(lexicon.VERB_LIKE.split())
COUNTED = lexicon.PEOPLE | lexicon.ANIMALS | lexicon.VEHICLES
# The words that rule out a "no": the object's own names, and those that leave it open.
OPEN_TO = {
    name: frozenset(word for word, (other, _) in FORMS.items() if other == name)
    | {form for word in lexicon.OPEN_TO.get(name, "").split() for form in (word, plural(word))}
    for name in lexicon.OBJECTS
}
