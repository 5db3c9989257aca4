"""Caption scores against human references: BLEU, ROUGE-L, CIDEr-D, METEOR, variety and length.

The scorers are pycocoevalcap's, the implementation that published figures come from, on words
from `ptb_tokenize`. Everything is in points: a CIDEr of 1.0 is 100.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from .statistics import Metric
from .tokenize import ptb_tokenize

# CIDEr weighs a word by the images whose references hold it: what all of them hold weighs nothing.
CIDER_NEEDS = "needs two images that differ in their captions"


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one system's captions, images in the order of ``image_ids``.

    ``values`` holds every corpus score by name, in points; "length" is in words and "distinct-n"
    in per cent. ``metrics`` holds those that can be resampled for an interval: a resample repeats
    captions, which alone lowers "distinct-n", and METEOR runs outside Python, so these two are not
    among them. ``per_image`` holds "CIDEr", "ROUGE-L" and "BLEU-4" of each image, ``(N,)``.
    ``missing`` says why a score has no figure; it then is in none of the others.
    """

    image_ids: list[str]
    values: dict[str, float]
    metrics: dict[str, Metric]
    per_image: dict[str, np.ndarray]
    missing: dict[str, str]


def score_captions(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], meteor: bool = False
) -> CaptionScores:
    """Score one caption an image against the references of that image.

    CIDEr is CIDEr-D with the document frequencies of ``references`` (Vedantam et al., 2015), BLEU
    takes the closest reference length (Papineni et al., 2002), ROUGE-L the best precision and the
    best recall over references (Lin, 2004), METEOR 1.5 is Java (Denkowski and Lavie, 2014).

    Raises ``ValueError`` unless both hold the same images and each image has references, and
    ``RuntimeError`` where METEOR is asked for on a machine without Java.
    """
    hypotheses, targets = _tokenised(candidates, references)
    if not any(text for texts in targets.values() for text in texts):
        raise ValueError("The references hold no words to score against.")
    words = {image: text.split(" ") if text else [] for image, [text] in hypotheses.items()}

    bleu = BleuScorer(n=4)
    for image in candidates:
        bleu += (hypotheses[image][0], targets[image])
    _, bleu_per_image = bleu.compute_score(option="closest", verbose=0)
    bleu_counts = np.array([_bleu_counts(sentence) for sentence in bleu.ctest])  # (N, 10)
    _, rouge_per_image = Rouge().compute_score(targets, hypotheses)
    ciders = _cider(targets, hypotheses)

    per_image = {
        "ROUGE-L": 100 * rouge_per_image,
        "BLEU-4": 100 * np.array(bleu_per_image[3]),
    }
    metrics = {
        **{f"BLEU-{n}": Metric(bleu_counts, partial(_corpus_bleu, n=n)) for n in range(1, 5)},
        "ROUGE-L": Metric(per_image["ROUGE-L"]),
    }
    if ciders is not None:
        per_image["CIDEr"] = ciders
        metrics["CIDEr"] = Metric(ciders)
    metrics["length"] = Metric(np.array([len(caption) for caption in words.values()]))
    values = {name: metric.value for name, metric in metrics.items()}
    values |= {f"distinct-{n}": _distinct(words.values(), n) for n in (1, 2)}
    if meteor:
        values["METEOR"] = 100 * _meteor(targets, hypotheses)
    missing = {"CIDEr": CIDER_NEEDS} if ciders is None else {}
    return CaptionScores(list(candidates), values, metrics, per_image, missing)


def cider_of_each(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> np.ndarray | None:
    """CIDEr-D of each image in points, ``(N,)``, or None where it has no figure; see `CIDER_NEEDS`.

    Raises ``ValueError`` unless both hold the same images and each image has references.
    """
    hypotheses, targets = _tokenised(candidates, references)
    return _cider(targets, hypotheses)


Texts = dict[
    str, list[str]
]  # one list of space-separated words an image, as pycocoevalcap wants it


def _tokenised(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[Texts, Texts]:
    """The words of captions and references, checked."""
    _check(candidates, references)
    hypotheses = {image: [" ".join(ptb_tokenize(text))] for image, text in candidates.items()}
    targets = {
        image: [" ".join(ptb_tokenize(t)) for t in references[image]] for image in candidates
    }
    return hypotheses, targets


def _cider(targets: Texts, hypotheses: Texts) -> np.ndarray | None:
    if len({frozenset(texts) for texts in targets.values()}) < 2:
        return None
    _, per_image = Cider().compute_score(targets, hypotheses)
    return 100 * per_image


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not candidates:
        raise ValueError("There are no captions to score.")
    # References of other images would still count in CIDEr's document frequencies.
    unmatched = sorted(candidates.keys() ^ references.keys(), key=str)
    if unmatched:
        raise ValueError(
            f"Captions and references must hold the same images; {len(unmatched)} are in only one "
            f"of them, such as {unmatched[0]!r}."
        )
    for image, texts in references.items():
        if isinstance(texts, str) or not texts:
            raise ValueError(f"The references of {image!r} must be a list of at least one caption.")


def _bleu_counts(sentence: dict[str, Any]) -> list[int]:
    """Matches and n-grams for n = 1..4, the caption's length, and the closest reference's."""
    length = sentence["testlen"]
    closest = min(sentence["reflen"], key=lambda reference: (abs(reference - length), reference))
    return [*sentence["correct"], *sentence["guess"], length, closest]


def _corpus_bleu(counts: np.ndarray, n: int) -> float:
    """Corpus BLEU-n in points from ``(N, 10)`` rows of `_bleu_counts`."""
    totals = counts.sum(axis=0)
    correct, guess, (length, closest) = totals[:n], totals[4 : 4 + n], totals[8:]
    # pycocoevalcap's guards against division by zero, so that the two agree to the last digit.
    tiny, small = 1e-15, 1e-9
    precision = np.prod((correct + tiny) / (guess + small)) ** (1 / n)
    brevity = min(0.0, 1 - (closest + small) / (length + tiny))
    return float(100 * precision * np.exp(brevity))


def _distinct(captions: Iterable[Sequence[str]], n: int) -> float:
    """Different n-grams among all n-grams of all captions, in per cent (Li et al., 2016)."""
    ngrams = [
        tuple(caption[start : start + n])
        for caption in captions
        for start in range(len(caption) - n + 1)
    ]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _meteor(targets: Texts, hypotheses: Texts) -> float:
    if shutil.which("java") is None:
        raise RuntimeError("METEOR needs Java: install a Java runtime, or score without METEOR.")
    score, _ = Meteor().compute_score(targets, hypotheses)
    return float(score)
