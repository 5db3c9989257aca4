"""Wu-Palmer similarity of nouns over WordNet, for the WUPS score of DAQUAR.

Reads the dictionary files of WordNet 3.0 themselves, in the format of the manual page wndb(5WN):
Debian's package ``wordnet-base``, Princeton's download and nltk's data all hold them. The
similarities equal nltk's, with which WUPS was published.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

PLACES = [
    Path("/usr/share/wordnet"),
    Path.home() / "nltk_data/corpora/wordnet",
    Path.home() / "nltk_data/corpora/wordnet.zip",
    Path("/usr/share/nltk_data/corpora/wordnet"),
    Path("/usr/share/nltk_data/corpora/wordnet.zip"),
]

_PLURALS = [
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
]


class WordSimilarity:
    """Wu-Palmer similarity of two nouns, from 0 to 1, in their most similar senses.

    A word is 1 to itself, and 0 to any other where WordNet lacks one of the two (Wu and Palmer,
    1994; so used by Malinowski and Fritz, 2014). Case does not matter, and a space stands for
    WordNet's underscore. ``dictionary`` is a folder or zip file of WordNet's files; without it the
    usual places are looked at. Raises ``LookupError`` where no WordNet is found.
    """

    def __init__(self, dictionary: Path | None = None) -> None:
        index, data, exceptions = _read(PLACES if dictionary is None else [dictionary])
        self._senses: dict[str, list[str]] = {}
        for line in index:
            word, _, count, *fields = line.split()
            self._senses[word] = fields[-int(count) :]
        self._names: dict[str, str] = {}
        self._hypernyms: dict[str, list[str]] = {}
        for line in data:
            synset, _, _, words, first, *_ = fields = line.split(" | ")[0].split()
            pointers = fields[4 + 2 * int(words, 16) + 1 :]  # symbol, synset, part of speech, lemma
            self._hypernyms[synset] = [
                target
                for symbol, target in zip(pointers[::4], pointers[1::4], strict=True)
                if symbol in ("@", "@i")
            ]
            name = first.lower()
            self._names[synset] = f"{name}.n.{self._senses[name].index(synset) + 1:02}"
        self._bases = {word: bases for word, *bases in (line.split() for line in exceptions)}
        self._depths: dict[str, tuple[int, int]] = {}
        self._known: dict[tuple[str, str], float] = {}

    def __call__(self, first: str, second: str) -> float:
        if first == second:
            return 1.0
        if (first, second) not in self._known:
            self._known[first, second] = max(
                (
                    self._wu_palmer(ours, theirs)
                    for ours in self._synsets(first)
                    for theirs in self._synsets(second)
                ),
                default=0.0,
            )
        return self._known[first, second]

    def _synsets(self, word: str) -> list[str]:
        """Every noun sense of a word and of what it may be the plural of."""
        word = word.lower().replace(" ", "_")
        if word in self._bases:
            forms = [word, *self._bases[word]]
        else:
            forms = [word] + [
                word.removesuffix(plural) + singular
                for plural, singular in _PLURALS
                if word.endswith(plural)
            ]
        return [synset for form in dict.fromkeys(forms) for synset in self._senses.get(form, ())]

    def _wu_palmer(self, first: str, second: str) -> float:
        ours, theirs = self._distances(first), self._distances(second)
        common = ours.keys() & theirs.keys()
        deepest = max(self._depth(synset)[0] for synset in common)
        subsumers = {synset for synset in common if self._depth(synset)[0] == deepest}
        # Of several lowest common hypernyms nltk takes the first word itself, or the first by name.
        subsumer = first if first in subsumers else min(subsumers, key=self._names.__getitem__)
        depth = self._depth(subsumer)[1] + 1
        above = self._distances(subsumer)
        return 2 * depth / (_shortest(ours, above) + _shortest(theirs, above) + 2 * depth)

    def _distances(self, synset: str) -> dict[str, int]:
        """Steps from a synset up to itself and to each of its hypernyms, by the shortest way."""
        distances = {synset: 0}
        queue = [synset]
        for below in queue:
            for above in self._hypernyms[below]:
                if above not in distances:
                    distances[above] = distances[below] + 1
                    queue.append(above)
        return distances

    def _depth(self, synset: str) -> tuple[int, int]:
        """Steps from the root down to a synset, by the shortest and by the longest way."""
        if synset not in self._depths:
            above = [self._depth(hypernym) for hypernym in self._hypernyms[synset]]
            self._depths[synset] = (
                1 + min((shortest for shortest, _ in above), default=-1),
                1 + max((longest for _, longest in above), default=-1),
            )
        return self._depths[synset]


def _shortest(first: dict[str, int], second: dict[str, int]) -> int:
    return min(first[synset] + second[synset] for synset in first.keys() & second.keys())


def _read(places: Iterable[Path]) -> tuple[list[str], list[str], list[str]]:
    """Lines of the noun index, the noun data and the irregular plurals, without the licence."""
    for place in places:
        folder = zipfile.Path(place, "wordnet/") if zipfile.is_zipfile(place) else place
        if (folder / "data.noun").is_file():
            index, data, exceptions = (
                [
                    line
                    for line in (folder / name).read_text("utf-8").splitlines()
                    if not line.startswith(" ")
                ]
                for name in ("index.noun", "data.noun", "noun.exc")
            )
            return index, data, exceptions
    raise LookupError(
        "WUPS needs WordNet, which was not found: install Debian's wordnet-base, or run "
        "python -m nltk.downloader wordnet."
    )
