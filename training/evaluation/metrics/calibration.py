"""Does confidence tell right from wrong? Calibration, and accuracy when the unsure are left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers with a confidence in ``(low, high]``; means from 0 to 1, NaN where ``n`` is 0."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error in points, and the bins that a reliability plot draws."""

    ece: float
    bins: list[ReliabilityBin]


def calibration(confidences: np.ndarray, accuracies: np.ndarray, bins: int = 10) -> Calibration:
    """Expected calibration error over bins of equal width (Guo et al., 2017).

    ``confidences (N,)`` and ``accuracies (N,)`` are from 0 to 1; an accuracy may be a fraction, as
    VQA's is. Raises ``ValueError`` for other values or lengths.
    """
    confidences, accuracies = _checked(confidences, accuracies)
    # A confidence on an edge belongs to the bin below it; zero belongs to the first.
    indices = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(indices, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(indices, weights=confidences, minlength=bins) / counts
        accuracy = np.bincount(indices, weights=accuracies, minlength=bins) / counts
    gaps = np.nan_to_num(np.abs(confidence - accuracy))
    return Calibration(
        ece=float(100 * (gaps * counts).sum() / len(confidences)),
        bins=[
            ReliabilityBin(
                i / bins, (i + 1) / bins, int(counts[i]), float(confidence[i]), float(accuracy[i])
            )
            for i in range(bins)
        ],
    )


def chance_ece(confidences: np.ndarray, draws: int = 200, seed: int = 0) -> float:
    """The calibration error in points, on average, of as many answers that are right as often as they are sure.

    Of few answers it is far from 0: a model whose error is no larger cannot be told from a perfectly calibrated one
    (Roelofs et al., 2022). ``confidences (N,)`` are from 0 to 1. Answers that are right in part vary less, so of VQA's
    it is an upper bound.
    """
    random = np.random.default_rng(seed)
    right = random.random((draws, len(confidences))) < confidences
    return float(np.mean([calibration(confidences, row).ece for row in right]))


def selective_accuracy(
    confidences: np.ndarray, accuracies: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy over the most confident answers, for every share of answers given.

    Returns ``coverage (N,)``, from 1/N to 1, and ``accuracy (N,)`` from 0 to 1 (El-Yaniv and
    Wiener, 2010). Equal confidences count with their mean, so the order of items changes nothing.
    """
    confidences, accuracies = _checked(confidences, accuracies)
    _, ties, counts = np.unique(-confidences, return_inverse=True, return_counts=True)
    means = np.bincount(ties, weights=accuracies) / counts
    answered = np.arange(1, len(confidences) + 1)
    return answered / len(confidences), np.repeat(means, counts).cumsum() / answered


def accuracy_at_coverage(confidences: np.ndarray, accuracies: np.ndarray, coverage: float) -> float:
    """Accuracy in points where only the most confident share ``coverage`` of questions is answered.

    Raises ``ValueError`` for a coverage outside (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"Coverage is a share of the questions in (0, 1], not {coverage}.")
    _, accuracy = selective_accuracy(confidences, accuracies)
    # The tolerance keeps 0.1 of 30 questions at 3, not at 4.
    return float(100 * accuracy[int(np.ceil(coverage * len(accuracy) - 1e-9)) - 1])


def _checked(confidences: np.ndarray, accuracies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidences, accuracies = np.asarray(confidences, float), np.asarray(accuracies, float)
    if confidences.ndim != 1 or confidences.shape != accuracies.shape or not len(confidences):
        raise ValueError("Confidences and accuracies must be two equally long, non-empty lists.")
    for name, values in (("Confidences", confidences), ("Accuracies", accuracies)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must lie between 0 and 1.")
    return confidences, accuracies
