"""Answers against human answers: official VQA accuracy, and answer sets as in DAQUAR.

The official accuracy follows ``vqaEval.py`` of GT-Vision-Lab/VQA at commit a013f00 (11 March 2021),
the evaluation code of VQA v2.0. Its quirks are kept, since published figures contain them: answers
stay as they are where all humans agree, "none" is "0", punctuation beside a space vanishes but
elsewhere becomes a space, a comma between digits makes all punctuation vanish, and "im" stays "im"
because its repair is listed under "Im" and looked up in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .statistics import Metric

Similarity = Callable[[str, str], float]

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_BETWEEN_DIGITS = re.compile(r"\d,\d", re.ASCII)
_FULL_STOP = re.compile(r"\.(?!\d)", re.ASCII)
# The official code hands re.UNICODE, which is 32, to re.sub's count.
_FULL_STOPS_REMOVED = 32

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"},
    **{"five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}


def _without_one_apostrophe(word: str) -> Iterator[str]:
    for match in re.finditer("'", word):
        yield word[: match.start()] + word[match.end() :]


# Each is restored where exactly one of its apostrophes is missing.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""
_REPAIRS = {
    broken: word for word in _CONTRACTIONS.split() for broken in _without_one_apostrophe(word)
} | {"somebody'd": "somebodyd"}


def normalize_answer(answer: str) -> str:
    """The form in which the official VQA evaluation compares answers."""
    answer = _strip(answer)
    stripped = answer
    vanish = _COMMA_BETWEEN_DIGITS.search(answer) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        stripped = stripped.replace(mark, "" if vanish or beside_space else " ")
    stripped = _FULL_STOP.sub("", stripped, count=_FULL_STOPS_REMOVED)
    words = (_NUMBERS.get(word, word) for word in stripped.lower().split())
    return " ".join(_REPAIRS.get(word, word) for word in words if word not in _ARTICLES)


def _strip(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Official VQA accuracy of one prediction, from 0 to 1 (Antol et al., 2015).

    Each human answer is left out once; against the others a prediction counts a third for each
    match, at most 1; the mean is taken. Raises ``ValueError`` for fewer than two answers.
    """
    if len(answers) < 2:
        raise ValueError(
            "VQA accuracy compares with several human answers; use answer_set_match for one."
        )
    prediction, answers = _strip(prediction), [_strip(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalize_answer(prediction), [normalize_answer(a) for a in answers]
    matches = answers.count(prediction)
    left_out_match, left_out_other = min(1, (matches - 1) / 3), min(1, matches / 3)
    others = len(answers) - matches
    return (matches * left_out_match + others * left_out_other) / len(answers)


def answer_set_match(prediction: str, answer: str, similarity: Similarity | None = None) -> float:
    """Compare two comma-separated answer sets, from 0 to 1.

    Without ``similarity`` this is exact match in any order. With it, each item counts as much as
    its best counterpart in the other set and the smaller product of the two directions is the
    score, which makes WUPS of a Wu-Palmer similarity (Malinowski and Fritz, 2014).
    """
    predicted = [item.strip() for item in prediction.split(",")]
    wanted = [item.strip() for item in answer.split(",")]
    if similarity is None:
        return float(set(predicted) == set(wanted))
    table = np.array([[similarity(ours, theirs) for theirs in wanted] for ours in predicted])
    return float(min(table.max(axis=1).prod(), table.max(axis=0).prod()))


@dataclass(frozen=True)
class AnswerScores:
    """Scores of one system's answers in points, questions in the order of ``question_ids``.

    Each of ``metrics`` is a mean of per-question scores, ``rows (N,)`` from 0 to 100.
    """

    question_ids: list[str]
    metrics: dict[str, Metric]

    @property
    def values(self) -> dict[str, float]:
        return {name: metric.value for name, metric in self.metrics.items()}


def score_vqa(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> AnswerScores:
    """Official VQA "accuracy" of one prediction a question against its human answers.

    Raises ``ValueError`` where the two do not hold the same questions.
    """
    _check(predictions, answers)
    return AnswerScores(
        list(predictions), {"accuracy": _metric(vqa_accuracy, predictions, answers)}
    )


def score_answer_sets(
    predictions: Mapping[str, str],
    answers: Mapping[str, str],
    similarity: Similarity | None = None,
) -> AnswerScores:
    """Score data with one answer a question, which may be a comma-separated set (DAQUAR, easy-VQA).

    Gives "exact match", and with a Wu-Palmer ``similarity`` also "WUPS@0.9" and "WUPS@0.0", where a
    similarity below the threshold counts a tenth. ``wups.WordSimilarity`` is the similarity to give
    where WordNet is present.

    Raises ``ValueError`` where the two do not hold the same questions.
    """
    _check(predictions, answers)
    metrics = {"exact match": _metric(answer_set_match, predictions, answers)}
    if similarity is not None:
        for threshold in (0.9, 0.0):
            measure = partial(
                answer_set_match, similarity=partial(_thresholded, similarity, threshold)
            )
            metrics[f"WUPS@{threshold}"] = _metric(measure, predictions, answers)
    return AnswerScores(list(predictions), metrics)


def _thresholded(similarity: Similarity, threshold: float, a: str, b: str) -> float:
    value = similarity(a, b)
    return value if value >= threshold else 0.1 * value


def _metric(measure: Callable[..., float], predictions: Mapping, answers: Mapping) -> Metric:
    scores = [measure(prediction, answers[key]) for key, prediction in predictions.items()]
    return Metric(100 * np.array(scores))


def _check(predictions: Mapping, answers: Mapping) -> None:
    if not predictions:
        raise ValueError("There are no answers to score.")
    unmatched = sorted(predictions.keys() ^ answers.keys(), key=str)
    if unmatched:
        raise ValueError(
            f"Predictions and answers must hold the same questions; {len(unmatched)} are in only "
            f"one of them, such as {unmatched[0]!r}."
        )


@dataclass(frozen=True)
class TypeScore:
    """How many questions a type has, and their mean score."""

    n: int
    score: float


def by_type(scores: np.ndarray, types: Sequence[str]) -> dict[str, TypeScore]:
    """Mean of per-question scores ``(N,)`` by question or answer type, most frequent type first."""
    names, indices, counts = np.unique(np.array(types), return_inverse=True, return_counts=True)
    means = np.bincount(indices, weights=scores) / counts
    order = np.argsort(-counts, kind="stable")
    return {str(names[i]): TypeScore(int(counts[i]), float(means[i])) for i in order}
