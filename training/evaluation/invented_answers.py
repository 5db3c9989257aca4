"""How well a model uses passages beside a photo: planted facts that it cannot know, found, cited, and missed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from vlm.answers import Answer
from vlm.captioner import Captioner
from vlm.encoded_image import EncodedImage

from ..data.invented_facts import NOT_THERE, Asked, rival, sheet, things_of
from ..data.records import DataError, Record
from .metrics.statistics import Interval, Metric, bootstrap_interval

PASSAGES = 8


@dataclass(frozen=True)
class Share:
    """A share of `count` questions in percent, with its 95 % interval."""

    name: str
    count: int
    value: float
    interval: Interval

    @classmethod
    def of(cls, name: str, hits: Sequence[bool]) -> Share:
        metric = Metric(100 * np.array(hits, dtype=float))
        return cls(name, len(hits), metric.value, bootstrap_interval(metric))


@dataclass(frozen=True)
class Figures:
    """What was measured, and the mean rank correlation of attention's shares with what answers lose.

    `judged` has the confidence of each answer with and without its passage, and whether it is as it should be.
    """

    shares: tuple[Share, ...]
    agreement: float
    judged: tuple[tuple[float, bool], ...]


@dataclass(frozen=True)
class _Case:
    image: EncodedImage
    passages: tuple[str, ...]
    asked: Asked


def measure(
    captioner: Captioner,
    photos: Iterable[Sequence[Record]],
    questions: int = 500,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Figures:
    """Ask `questions` questions about held-out facts, each with its passage, without it, and with another's in place.

    `photos` are the records of one image each, with captions. One question a photo is asked, until there are enough,
    and where a passage can contradict the photo one about that. Raises DataError where nothing could be asked.
    """
    generator = random.Random(seed)
    hits: dict[str, list[bool]] = {}
    agreements: list[float] = []
    judged: list[tuple[Answer, bool]] = []

    def note(name: str, hit: bool) -> None:
        hits.setdefault(name, []).append(hit)

    asked = 0
    for records in photos:
        if asked == questions:
            break
        about = sheet(records, generator, PASSAGES, questions=6, held_out=True)
        wanted = [one for one in about.asked if one.fact is not None]
        against = [one for one in about.asked if one.kind == "contradiction"]
        if not wanted:
            continue
        image = captioner.encode(records[0].image.read())
        asked += 1
        # As many of each kind as the photos allow, in turns.
        wanted.sort(key=lambda one: one.kind != ("both", "passage")[asked % 2])
        case = _Case(image, about.passages, wanted[0])
        judged += _ask(case, records, generator, note, agreements)
        for one in against[:1]:
            answer = image.ask(_question(one), about.passages)
            named = all(
                part in answer.text.lower() for part in one.answer.split(", but the documents say ")
            )
            note(
                "contradicted by a passage: both named, or unsure",
                named or answer.verdict != "sure",
            )
            note("contradicted by a passage: both named", named)
        if asked % 50 == 0:
            progress(f"{asked} of {questions} questions")
    if not hits:
        raise DataError("no photo has captions that name things to ask about")
    for verdict in ("sure", "unsure", "guess"):
        for answer, right in judged:
            if answer.verdict == verdict:
                note(f"with its passage or without: right where the verdict is {verdict}", right)
    shares = tuple(Share.of(name, own) for name, own in hits.items())
    confidences = tuple((answer.confidence, right) for answer, right in judged)
    return Figures(shares, float(np.mean(agreements)), confidences)


def _ask(
    case: _Case,
    records: Sequence[Record],
    generator: random.Random,
    note: Callable[[str, bool], None],
    agreements: list[float],
) -> list[tuple[Answer, bool]]:
    """Ask one question in three ways, and note what came of it; the answers with its passage and without, if right."""
    asked, passages = case.asked, list(case.passages)
    place, fact = asked.passage, asked.fact
    assert place is not None
    assert fact is not None
    answer = case.image.ask(_question(asked), passages)
    right = _same(answer, asked.answer)
    note("with the right passage: exact", right)
    note(f"  of these, {_needs(asked)}", right)
    found = answer.evidence
    assert found is not None
    note("cited passage is the right one", found.cited == place)
    if right:
        note("  of these, where the answer is exact", found.cited == place)
    used = [(source.share, source.lost) for source in found.sources]
    agreements.append(float(spearmanr(*zip(*used)).statistic))

    without = passages[:place] + passages[place + 1 :]
    missing = case.image.ask(_question(asked), without)
    note("without it: says that it is not there", _same(missing, NOT_THERE))
    known = set().union(*things_of(records).values()) | {
        thing for p in without for thing in p.split()
    }
    text, value = rival(fact, generator, True, known)
    misled = case.image.ask(_question(asked), [*passages[:place], text, *passages[place + 1 :]])
    note("with another thing's passage: not misled", not _same(misled, value))
    note("with another thing's passage: says that it is not there", _same(misled, NOT_THERE))
    return [(answer, right), (missing, _same(missing, NOT_THERE))]


def _needs(asked: Asked) -> str:
    return "from the passage alone" if asked.kind == "passage" else "the photo says of which thing"


def _question(asked: Asked) -> str:
    assert asked.question is not None
    return asked.question


def _same(answer: Answer, wanted: str) -> bool:
    """Whether an answer is what was wanted, whatever its capitals and spaces."""
    return "".join(answer.text.lower().split()) == "".join(wanted.lower().split())
