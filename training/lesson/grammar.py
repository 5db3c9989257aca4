"""English sentences and their French, both written by one grammar that knows which word became which.

A fragment of both languages, in which French differs from English in what translation is hard by:

- order: "the small black dog" is "le petit chien noir", "the girl 's dog" is "le chien de la fille", and "sees her"
  is "la voit";
- agreement: articles, adjectives and verbs have their noun's gender and number, also across a relative clause;
- one word for several and several for one: "not" is "ne … pas", "potato" is "pomme de terre", "swimming pool" is
  "piscine", and "'s the" is "du".
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .pairs import AlignedPair
from .word_forms import (
    ADVERBS,
    BEFORE,
    BEHIND,
    BEINGS,
    INTRANSITIVE,
    OF_PEOPLE,
    PEOPLE,
    PLACES,
    PLURAL_ARTICLES,
    PREPOSITIONS,
    PRONOUNS,
    SINGULAR_ARTICLES,
    STATIVE,
    THINGS,
    TRANSITIVE,
    Noun,
    Verb,
)


@dataclass(frozen=True, eq=False)
class English:
    """One English word; two of the same spelling are two."""

    text: str


@dataclass(frozen=True)
class French:
    """A French word, the English ones that mean it, and those that only grammar joins it with."""

    text: str
    sure: tuple[English, ...]
    possible: tuple[English, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """The same in both languages; `heads` are the noun that verbs agree with."""

    english: list[English]
    french: list[French]
    heads: tuple[English, ...] = ()
    plural: bool = False


def sentences(seed: int) -> Iterator[AlignedPair]:
    """Different English sentences without end, each with its French; which, is a function of the seed."""
    grammar = Grammar(random.Random(f"{seed}/sentences"))
    seen: set[tuple[str, ...]] = set()
    while True:
        pair = grammar.sentence()
        if pair.source not in seen:
            seen.add(pair.source)
            yield pair


class Grammar:
    """Draws phrases of both languages at once."""

    def __init__(self, generator: random.Random) -> None:
        self.choose, self.random = generator.choice, generator.random

    def sentence(self) -> AlignedPair:
        """A statement or a question."""
        if self._now_and_then(0.15):
            return _paired([self._question()])
        subject = self._noun_phrase(BEINGS, depth=1)
        clause = [subject, self._predicate(subject, depth=1)]
        if self._now_and_then(0.35):
            place = self._place()
            clause = (
                [place, _same(",", ","), *clause] if self._now_and_then(0.3) else [*clause, place]
            )
        return _paired([*clause, _same(".", ".")])

    def _question(self) -> Phrase:
        """ "does the dog sing" is "est-ce que le chien chante"."""
        subject = self._noun_phrase(BEINGS, depth=1, behind_vowel=True)
        does, mark = English("do" if subject.plural else "does"), English("?")
        verb = self.choose([*TRANSITIVE, *INTRANSITIVE])
        plain, *particle = _words(verb.english[0], verb.particle)
        said = self._said(verb, subject, (plain, *particle), (does,), future=False)
        thing = self._object(verb, depth=0)
        # That it is a question, "does" says, and the mark.
        asked = [French("est-ce", (), (does, mark)), French("que", (), (does, mark))]
        end = Phrase([mark], [French("?", (mark,))])
        parts = [Phrase([does], asked), subject, Phrase([plain, *particle], said), thing, end]
        return _joined(parts)

    def _predicate(self, subject: Phrase, depth: int) -> Phrase:
        """A verb in one of three tenses, negated, with an adverb or plain, and its object."""
        verb = self.choose([*TRANSITIVE, *INTRANSITIVE])
        tense = self.choose(["present", "present", "progressive", "future"])
        if verb.english[0] in STATIVE and tense == "progressive":
            tense = "present"
        manner = self.choose(["plain", "plain", "not", "adverb"])
        many = int(subject.plural)
        auxiliaries = []
        if tense == "future":
            auxiliaries = [English("will")]
        elif tense == "progressive":
            auxiliaries = [English(("is", "are")[many])]
        elif manner == "not":
            auxiliaries = [English(("does", "do")[many])]
        form = verb.english[2 if tense == "progressive" else 0]
        if not auxiliaries and not many:
            form = verb.english[1]
        meaning = _words(form, verb.particle)
        adverb = English("not" if manner == "not" else self.choose(list(ADVERBS)))
        between = [] if manner == "plain" else [adverb]
        pronoun = None
        thing = self._object(verb, depth)
        if verb in TRANSITIVE and self._now_and_then(0.2):
            pronoun = English(self.choose(list(PRONOUNS)))
            thing = Phrase([], [])
        said = self._said(
            verb, subject, meaning, tuple(auxiliaries), tense == "future", between, pronoun
        )
        own = [] if pronoun is None else [pronoun]
        # "picks it up": a pronoun stands before a particle that is no preposition.
        places = [*meaning, *own]
        if pronoun is not None and verb.particle == "up":
            places = [meaning[0], pronoun, *meaning[1:]]
        return _joined([Phrase([*auxiliaries, *between, *places], said), thing])

    def _said(
        self,
        verb: Verb,
        subject: Phrase,
        meaning: Sequence[English],
        auxiliaries: tuple[English, ...],
        future: bool,
        adverbs: Sequence[English] = (),
        pronoun: English | None = None,
    ) -> list[French]:
        """The French verb and what stands around it: "ne la voit pas"."""
        form = (verb.future if future else verb.present)[subject.plural]
        said = []
        negation = [adverb for adverb in adverbs if adverb.text in ("not", "never")]
        if negation:
            said.append(French("ne", tuple(negation)))
        if verb.reflexive:
            said.append(French("se", tuple(meaning), subject.heads))
        if pronoun is not None:
            said.append(French(PRONOUNS[pronoun.text], (pronoun,)))
        said.append(French(form, tuple(meaning), (*auxiliaries, *subject.heads)))
        for adverb in adverbs:
            said.append(French(ADVERBS.get(adverb.text, "pas"), (adverb,)))
        return said

    def _object(self, verb: Verb, depth: int) -> Phrase:
        if verb in INTRANSITIVE:
            return Phrase([], [])
        return self._noun_phrase(self.choose([BEINGS, THINGS]), depth)

    def _place(self) -> Phrase:
        """ "under the table" is "sous la table", "near the garden" is "près du jardin"."""
        english = English(self.choose(list(PREPOSITIONS)))
        nouns = THINGS if english.text in ("with", "under") else PLACES
        near = english.text == "near"
        where = self._noun_phrase(nouns, depth=0, behind_vowel=near)
        first = Phrase([english], [French(PREPOSITIONS[english.text], (english,))])
        return _joined([first, _of(english, where) if near else where])

    def _noun_phrase(self, nouns: Sequence[Noun], depth: int, behind_vowel: bool = False) -> Phrase:
        """An article, adjectives and a noun; up to `depth` deep with an owner or a relative clause.

        `behind_vowel` leaves out "a", whose "un" would shorten the word in front of it.
        """
        noun = self.choose(nouns)
        many = self._now_and_then(0.35)
        form = 2 * many + noun.gender
        heads = _words(*noun.english[many].split())
        adjectives: list[English] = []
        before: list[French] = []
        behind: list[French] = []
        for table, place in ((BEFORE, before), (OF_PEOPLE if noun in PEOPLE else BEHIND, behind)):
            if self._now_and_then(0.3):
                adjective = English(self.choose(list(table)))
                adjectives.append(adjective)
                place.append(French(table[adjective.text][form], (adjective,), heads))
        named = [French(word, heads) for word in noun.french[many].split()]
        core = Phrase([*adjectives, *heads], [*before, *named, *behind])
        if depth and self._now_and_then(0.2):
            return self._owned(core, heads, form)
        table = PLURAL_ARTICLES if many else SINGULAR_ARTICLES
        article = English(self.choose([word for word in table if word != "a" or not behind_vowel]))
        first = Phrase([article], [French(table[article.text][noun.gender], (article,), heads)])
        whole = Phrase(*_sides([first, core]), heads, many)
        if depth and nouns is BEINGS and self._now_and_then(0.2):
            that = English("that")
            link = Phrase([that], [French("qui", (that,))])
            return Phrase(*_sides([whole, link, self._relative(whole)]), heads, many)
        return whole

    def _owned(self, core: Phrase, heads: tuple[English, ...], form: int) -> Phrase:
        """ "the girl 's dog" is "le chien de la fille"."""
        owner = self._noun_phrase(BEINGS, depth=0, behind_vowel=True)
        s = English("'" if owner.english[-1].text.endswith("s") else "'s")
        article = French(("le", "la", "les", "les")[form], (), (s, *heads))
        english = [*owner.english, s, *core.english]
        return Phrase(english, [article, *core.french, *_of(s, owner).french], heads, form >= 2)

    def _relative(self, subject: Phrase) -> Phrase:
        """The verb behind "that", in the present."""
        verb = self.choose([*TRANSITIVE, *INTRANSITIVE])
        meaning = _words(verb.english[0 if subject.plural else 1], verb.particle)
        said = self._said(verb, subject, meaning, (), future=False)
        return _joined([Phrase(list(meaning), said), self._object(verb, depth=0)])

    def _now_and_then(self, share: float) -> bool:
        return self.random() < share


def _of(meaning: English, phrase: Phrase) -> Phrase:
    """A noun phrase behind "de", which melts into "le" and "les"."""
    first, *rest = phrase.french
    melted = {"le": "du", "les": "des"}.get(first.text)
    if melted is None:
        french = [French("de", (meaning,)), first, *rest]
    else:
        french = [French(melted, (meaning, *first.sure), first.possible), *rest]
    return Phrase(phrase.english, french)


def _words(*texts: str) -> tuple[English, ...]:
    return tuple(English(text) for text in texts if text)


def _same(english: str, french: str) -> Phrase:
    word = English(english)
    return Phrase([word], [French(french, (word,))])


def _sides(phrases: Sequence[Phrase]) -> tuple[list[English], list[French]]:
    """Phrases one behind the other."""
    english = [word for phrase in phrases for word in phrase.english]
    return english, [word for phrase in phrases for word in phrase.french]


def _joined(phrases: Sequence[Phrase]) -> Phrase:
    return Phrase(*_sides(phrases))


def _paired(phrases: Sequence[Phrase]) -> AlignedPair:
    english, french = _sides(phrases)
    places = {word: place for place, word in enumerate(english)}
    sure = {(t, places[word]) for t, said in enumerate(french) for word in said.sure}
    loose = {(t, places[word]) for t, said in enumerate(french) for word in said.possible}
    return AlignedPair(
        tuple(word.text for word in english),
        tuple(word.text for word in french),
        frozenset(sure),
        frozenset(sure | loose),
    )
