"""The grammar's two languages: what it writes is French that agrees, and its links join what belongs together."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from training.lesson.grammar import Grammar, sentences
from training.lesson.learning import LessonRecipe, draw
from training.lesson.pairs import AlignedPair, Vocabulary
from training.lesson.word_forms import BEHIND, BEINGS, INTRANSITIVE, TRANSITIVE


@pytest.fixture(scope="module")
def pairs() -> list[AlignedPair]:
    return list(islice(sentences(0), 2000))


def linked(pair: AlignedPair, word: str) -> list[str]:
    """The source words that a target word is surely linked to."""
    place = pair.target.index(word)
    return [pair.source[s] for t, s in sorted(pair.sure) if t == place]


def first(pairs: list[AlignedPair], *words: str) -> AlignedPair:
    return next(p for p in pairs if set(words) <= set(p.source))


def test_sentences_are_a_function_of_the_seed(pairs: list[AlignedPair]) -> None:
    assert list(islice(sentences(0), 50)) == pairs[:50]
    assert list(islice(sentences(1), 50)) != pairs[:50]


def test_splits_share_no_sentence(tmp_path) -> None:
    splits = draw(LessonRecipe("translation", examples=800, held_out=200, steps=1), tmp_path)
    sources = [pair.source for part in (splits.train, splits.dev, splits.test) for pair in part]
    assert len(sources) == len(set(sources)) == 1200


def test_every_content_word_is_linked(pairs: list[AlignedPair]) -> None:
    """Only what French leaves out is lost, and only what marks owned things and questions is added."""
    silent = {"is", "are", "do", "does", "will"}
    for pair in pairs:
        assert {t for t, _ in pair.possible} == set(range(len(pair.target)))
        unsaid = set(range(len(pair.source))) - {s for _, s in pair.sure}
        assert {pair.source[s] for s in unsaid} <= silent, pair
        added = set(range(len(pair.target))) - {t for t, _ in pair.sure}
        assert {pair.target[t] for t in added} <= {"le", "la", "les", "est-ce", "que"}, pair


def test_words_reorder(pairs: list[AlignedPair]) -> None:
    """Crossing links: colours behind their nouns, pronouns before their verbs, owners behind what they own."""
    colour = first(pairs, "red")
    place = next(t for t, word in enumerate(colour.target) if word.startswith("rouge"))
    (source,) = [s for t, s in colour.sure if t == place]
    (before, *_) = [s for t, s in colour.sure if t == place - 1]
    assert before > source
    pronoun = first(pairs, "him")
    him = pronoun.source.index("him")
    (said,) = [t for t, s in pronoun.sure if s == him]
    assert pronoun.target[said] == "le"
    assert max(s for t, s in pronoun.sure if t == said + 1) != him
    crossing = sum(t < u and s > v for p in pairs for t, s in p.sure for u, v in p.sure)
    assert crossing > len(pairs)


@pytest.mark.parametrize(
    ("english", "french"),
    [
        (["not"], ["ne", "pas"]),
        (["never"], ["ne", "jamais"]),
        (["potato"], ["pomme", "de", "terre"]),
        (["swimming", "pool"], ["piscine"]),
        (["police", "officer"], ["policier"]),
    ],
)
def test_one_word_for_several_and_several_for_one(
    pairs: list[AlignedPair], english: list[str], french: list[str]
) -> None:
    pair = first(pairs, *english)
    start = pair.source.index(english[0])
    places = set(range(start, start + len(english)))
    said = sorted(t for t, s in pair.sure if s == start)
    assert [pair.target[t] for t in said] == french
    for t in said:
        assert {s for u, s in pair.sure if u == t} == places


def test_de_melts_into_its_article(pairs: list[AlignedPair]) -> None:
    for pair in pairs:
        text = " ".join(pair.target)
        assert " de le " not in text, pair
        assert " de les " not in text, pair
    owned = next(
        p for p in pairs if "du" in p.target and "'s" in p.source and "near" not in p.source
    )
    assert linked(owned, "du") == ["the", "'s"]


def test_french_agrees(pairs: list[AlignedPair]) -> None:
    """A plural subject has a plural verb, a feminine noun a feminine colour, also behind "qui"."""
    genders: dict[str, set[int]] = {}
    for noun in BEINGS:
        for form in noun.french:
            genders.setdefault(form, set()).add(noun.gender)
    singular, plural = (
        {
            form
            for verb in (*TRANSITIVE, *INTRANSITIVE)
            for form in (verb.present[n], verb.future[n])
        }
        for n in (0, 1)
    )
    many = {noun.french[1] for noun in BEINGS if len(set(noun.french)) == 2}
    one = {noun.french[0] for noun in BEINGS if len(set(noun.french)) == 2}
    seen = 0
    for pair in pairs:
        for here, following in zip(pair.target, pair.target[1:]):
            feminine = {forms[1] for forms in BEHIND.values() if forms[1] != forms[0]}
            if following in feminine and here in genders:
                assert genders[here] == {1}, pair
                seen += 1
            if here == "qui":
                before = set(pair.target[: pair.target.index("qui")])
                assert following not in plural or not before <= one, pair
        if pair.target[1] in many and pair.target[2] in singular | plural:
            assert pair.target[2] in plural, pair
            seen += 1
        if pair.target[1] in one and pair.target[2] in singular | plural:
            assert pair.target[2] in singular, pair
            seen += 1
    assert seen > 100


def test_nothing_would_be_shortened(pairs: list[AlignedPair]) -> None:
    """French says "l'", "d'", "n'" and "qu'" before vowels, which the grammar steers clear of."""
    for pair in pairs:
        for here, following in zip(pair.target, pair.target[1:]):
            if here in ("le", "la", "de", "ne", "que", "se", "ce", "ma"):
                assert following[0] not in "aeiouyhéèê", pair


def test_english_agrees(pairs: list[AlignedPair]) -> None:
    for pair in pairs:
        if pair.source[0] == "every":
            assert not {"do", "are"} & set(pair.source[:3])


def test_a_grammar_draws_from_its_generator_alone() -> None:
    state = random.getstate()
    Grammar(random.Random(1)).sentence()
    assert random.getstate() == state


def test_links_must_lie_inside() -> None:
    with pytest.raises(ValueError, match="outside"):
        AlignedPair(("a",), ("b",), frozenset(), frozenset({(0, 1)}))
    with pytest.raises(ValueError, match="not possible"):
        AlignedPair(("a",), ("b",), frozenset({(0, 0)}), frozenset())


def test_rare_words_are_unknown() -> None:
    pairs = [
        AlignedPair(("a", "b"), ("a",), frozenset(), frozenset()),
        AlignedPair(("a",), ("c",), frozenset(), frozenset()),
    ]
    vocabulary = Vocabulary.of(pairs, least=2)
    assert vocabulary.words == ("a",)
    assert vocabulary.decode(vocabulary.encode(["a", "b"])) == ["a", "<unknown>"]
