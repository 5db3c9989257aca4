"""Fit how far a model's texts are to be trusted: temperatures, likeness to photos, and thresholds of its verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlm.captioner import BATCH, Captioner
from vlm.images import ImageSource
from vlm.model.likeness import mean_slot
from vlm.prompts import text_ids

from ..data.records import Record

TEMPERATURES = np.geomspace(0.5, 3.0, 61)
SHRINKAGE = 0.1  # of the covariance to a multiple of the identity
PHOTOS_LOST = 0.05  # dev photos that may be taken for something else
OTHERS_KEPT = 0.02  # drawings and the like that may be taken for photos


@dataclass(frozen=True)
class Choice:
    """The logits `(T, V)` that a text's tokens were chosen by, the tokens `(T,)`, and how right it is, from 0 to 1."""

    logits: Tensor
    tokens: Tensor
    right: float

    def logprob(self, temperature: float) -> float:
        logprobs = (self.logits / temperature).log_softmax(dim=-1)
        return logprobs.gather(1, self.tokens[:, None]).sum().item()


def answer_temperature(choices: Sequence[Choice]) -> float:
    """The temperature that makes the probabilities of answers those of being right, by the log loss."""
    right = np.array([choice.right for choice in choices])

    def loss(temperature: float) -> float:
        logs = np.array([choice.logprob(temperature) for choice in choices]).clip(max=-1e-4)
        return -float(np.mean(right * logs + (1 - right) * np.log1p(-np.exp(logs))))

    return float(min(TEMPERATURES, key=loss))


def caption_temperature(choices: Sequence[Choice]) -> float:
    """The temperature that makes people's words likeliest (Guo et al., 2017)."""

    def loss(temperature: float) -> float:
        return -sum(choice.logprob(temperature) for choice in choices)

    return float(min(TEMPERATURES, key=loss))


@torch.inference_mode()
def choices(
    captioner: Captioner, records: Iterable[Record], texts: Iterable[str], right: Iterable[float]
) -> list[Choice]:
    """What each text about a record's image, a caption or the answer to its question, was chosen by."""
    found, encoded, key = [], None, ""
    for record, text, share in zip(records, texts, right, strict=True):
        if record.image.key != key:
            encoded, key = captioner.encode(record.image.read()), record.image.key
        assert encoded is not None
        asked = None if record.question is None else [record.question]
        projected, (prompt,) = captioner.start([encoded], asked)
        ids = text_ids(captioner.tokenizer, text)
        ids = ids[: captioner.model.config.decoder.max_length - len(prompt) - 1]
        if not ids:
            continue
        sequence = torch.tensor([[*prompt, *ids]], device=captioner.model.device)
        hidden = captioner.model.decoder(sequence, projected).hidden[0, len(prompt) - 1 :]
        tokens = torch.tensor([*ids, captioner.tokenizer.end])
        logits = captioner.model.decoder.logits(hidden).float().cpu()
        found.append(Choice(logits, tokens, share))
    return found


@torch.inference_mode()
def features(captioner: Captioner, pictures: Sequence[ImageSource]) -> np.ndarray:
    """The mean slot of each picture, `(N, D)`."""
    rows = [
        mean_slot(image.memory).float().cpu().numpy()
        for start in range(0, len(pictures), BATCH)
        for image in captioner.encode_all(pictures[start : start + BATCH])
    ]
    return np.concatenate(rows)


def photo_discriminant(photos: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Fisher's discriminant `(D,)` of photos `(N, D)` from others `(M, D)`, of unit spread over the photos.

    Rounded as a checkpoint stores it.
    """
    centred = np.concatenate([photos - photos.mean(axis=0), others - others.mean(axis=0)])
    covariance = centred.T @ centred / len(centred)
    scale = np.trace(covariance) / len(covariance)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * np.eye(len(covariance))
    weight = np.linalg.solve(covariance, photos.mean(axis=0) - others.mean(axis=0))
    return (weight / (photos @ weight).std()).astype(np.float16).astype(np.float32)


def photo_threshold(photos: np.ndarray, others: np.ndarray) -> float:
    """The least likeness of a photo: above nearly all others, and at least above the most unlikely photos."""
    return float(max(np.quantile(photos, PHOTOS_LOST), np.quantile(others, 1 - OTHERS_KEPT)))


def thresholds(
    sureness: np.ndarray, right: np.ndarray, sure: float, guess: float
) -> tuple[float, float]:
    """From where on texts are right in a share of at least `sure`, and below what in one of at most `guess`.

    `sureness` and `right`, `(N,)`, are from 0 to 1. Where no texts are as good, none is sure; where none are as bad,
    none is a guess.
    """
    order = np.argsort(-sureness, kind="stable")
    values, rights = sureness[order], right[order]
    counts = np.arange(1, len(values) + 1)
    good = np.flatnonzero(rights.cumsum() / counts >= sure)
    bad = np.flatnonzero(rights[::-1].cumsum() / counts <= guess)
    least_sure = float(values[good[-1]]) if len(good) else float("inf")
    most_guessed = float(values[::-1][bad[-1]]) if len(bad) else 0.0
    # None is above 1, and JSON has no infinity.
    return min(least_sure, 2.0), min(most_guessed, least_sure, 2.0)
