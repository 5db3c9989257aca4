"""How often captions name objects that are not in the picture (CHAIR; Rohrbach et al., 2018)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from .tokenize import ptb_tokenize


@dataclass(frozen=True)
class Hallucination:
    """``chair_i``: objects named in vain among all objects named; ``chair_s``: captions that name
    one in vain among all captions; both in per cent. ``invented`` lists them image by image.
    """

    chair_i: float
    chair_s: float
    invented: dict[str, list[str]]


def hallucination(
    captions: Mapping[str, str],
    objects: Mapping[str, Collection[str]],
    synonyms: Mapping[str, str],
) -> Hallucination:
    """Compare the objects that captions name with lists of what each image shows.

    ``objects`` maps an image to its object names. ``synonyms`` maps a word or phrase to the object
    it names, each object itself included: ``{"puppy": "dog", "dog": "dog", "hot dog": "hot dog"}``.
    Only what stands in this table counts as an object. The longest phrase wins, so "hot dog" names
    no dog, and regular plurals are found by themselves. Raises ``KeyError`` for a caption of an
    image without an object list.
    """
    named = 0
    invented: dict[str, list[str]] = {}
    for image, caption in captions.items():
        mentions = list(_mentions(ptb_tokenize(caption), synonyms))
        named += len(mentions)
        invented[image] = [name for name in mentions if name not in objects[image]]
    in_vain = sum(len(names) for names in invented.values())
    return Hallucination(
        chair_i=100 * in_vain / named if named else 0.0,
        chair_s=100 * sum(bool(names) for names in invented.values()) / max(1, len(captions)),
        invented=invented,
    )


def _mentions(words: list[str], synonyms: Mapping[str, str]) -> Iterator[str]:
    longest = max((len(phrase.split()) for phrase in synonyms), default=0)
    start = 0
    while start < len(words):
        for length in range(longest, 0, -1):
            phrase = " ".join(words[start : start + length])
            singular = next((form for form in _singulars(phrase) if form in synonyms), None)
            if singular is not None:
                yield synonyms[singular]
                start += length - 1
                break
        start += 1


def _singulars(phrase: str) -> Iterator[str]:
    yield phrase
    if phrase.endswith("ies"):
        yield phrase[:-3] + "y"
    if phrase.endswith("es"):
        yield phrase[:-2]
    if phrase.endswith("s"):
        yield phrase[:-1]
