"""A checkpoint's fit of trust on dev data: what is fitted on what, what it gave, and where it is stored."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save

from vlm.captioner import BATCH, Captioner
from vlm.images import ImageSource
from vlm.model.config import CalibrationConfig, VerdictConfig
from vlm.model.likeness import PhotoLikeness

from ..data.atomic import replace_file
from ..data.coco_images import coco_id
from ..data.readers import read
from ..data.records import Record
from ..data.report import Report
from ..data.unlike_photos import Draw, drawn, kinds_of
from . import trust
from .metrics.calibration import calibration as calibration_of
from .metrics.calibration import chance_ece
from .metrics.hallucination import hallucination
from .metrics.objects import OBJECT_NAMES
from .predict import Prediction, predict_answers, predict_captions, with_all_captions
from .scoring import evaluate_answers

DRAWN = 60  # pictures of each kind
# What an answer, or a caption, that is sure shall be: right in so many cases, and a guess in so few.
SURE, GUESS = 0.75, 0.25
SURE_CAPTION, GUESS_CAPTION = 0.8, 0.4
SURE_DOCUMENTS, GUESS_DOCUMENTS = 0.9, 0.5  # what stands in a document can be looked up

Split = tuple[str, str, str, Mapping[str, str]]  # folder, format, split, the reader's options
Splits = Sequence[Split]

UNSEEN: Split = ("vqa_v2", "vqa_v2", "val", {})
DAQUAR: Split = ("daquar", "daquar", "dev", {})
COCO: Splits = (
    ("coco", "vqa_v2", "val", {}),
    ("coco/annotations/single_answer", "vqa_v2", "val", {"images": "coco/images"}),
    ("coco", "okvqa", "val", {}),
    ("coco", "cocoqa", "val", {}),
)
CAPTIONS: Splits = (("coco", "coco", "val", {}), ("flickr8k", "flickr8k", "dev", {}))
PHOTOS: Splits = (
    ("coco", "coco", "train", {}),
    ("flickr8k", "flickr8k", "train", {}),
    ("pascal_sentences", "coco", "train", {}),
    ("daquar", "daquar", "train", {}),
)


def fit_and_store(
    folder: Path,
    load: Callable[[], Captioner],
    data: Path,
    stamps: Path,
    photos: int,
    limit: int | None,
) -> dict[str, Any]:
    """Fit a checkpoint folder, write the fit into it, and say what it gives; figures are in points."""
    captioner = load()
    model = captioner.model
    model.config = replace(model.config, calibration=CalibrationConfig(), verdict=None)
    report: dict[str, Any] = {}

    unseen = _read(data, *UNSEEN)[:limit]
    asked_of = {coco_id(record.image.path) for record in _read(data, *UNSEEN)}
    groups = [_read(data, *DAQUAR)[:limit]]
    groups += [
        [r for r in _read(data, *split) if coco_id(r.image.path) not in asked_of][:limit]
        for split in COCO
    ]
    captions = [with_all_captions(_read(data, *split))[: limit or 400] for split in CAPTIONS]

    before = [p for group in groups for p in _answers(captioner, group)]
    rights = _rights(before)
    asked = [p.record for p in before]
    texts = [p.text for p in before]
    answers = trust.answer_temperature(trust.choices(captioner, asked, texts, rights))
    people = list(chain(*captions))
    first = [record.texts[0] for record in people]
    said = trust.choices(captioner, people, first, [1.0] * len(first))
    calibration = CalibrationConfig(answers, trust.caption_temperature(said))
    report["temperatures"] = {name: round(value, 3) for name, value in asdict(calibration).items()}
    report["VQA v2 val before"] = _calibration(_answers(captioner, unseen))
    model.config = replace(model.config, calibration=calibration)
    after = [p for group in groups for p in _answers(captioner, group)]
    report["dev answers"] = {"before": _calibration(before), "after": _calibration(after)}

    learnt, held_out = kinds_of(stamps)
    shown = trust.features(captioner, _photos(data, PHOTOS, photos))
    others = trust.features(captioner, _drawings(learnt, seed=0))
    model.likeness = PhotoLikeness(shown.shape[1]).to(model.device)
    weight = torch.from_numpy(trust.photo_discriminant(shown, others))
    model.likeness.weight.copy_(weight)
    dev = trust.features(captioner, [r.image.read() for r in people])
    photo = trust.photo_threshold(dev @ weight.numpy(), others @ weight.numpy())

    sureness = np.array([p.confidence for p in after])
    answer_limits = trust.thresholds(sureness, _rights(after), SURE, GUESS)
    written = [p for group in captions for p in predict_captions(captioner, group, Report())]
    likely = np.array([p.likelihood for p in written])
    caption_limits = trust.thresholds(likely, _true(written), SURE_CAPTION, GUESS_CAPTION)
    verdict = VerdictConfig(photo, *answer_limits, *caption_limits)
    model.config = replace(model.config, verdict=verdict)
    store(folder, calibration, verdict, weight)

    fitted = [p for group in groups for p in _answers(captioner, group)]
    report["dev answers"] |= {"verdicts": _by_verdict(fitted, _rights(fitted))}
    written = [p for group in captions for p in predict_captions(captioner, group, Report())]
    report["dev captions without an invented object"] = _by_verdict(written, _true(written))
    seen = _answers(captioner, unseen)
    report["VQA v2 val, unseen"] = _calibration(seen) | _by_verdict(seen, _rights(seen))
    for title, kinds in (("drawings that were learnt", learnt), ("other drawings", held_out)):
        report[f"guesses about {title}"] = {
            name: _guessed(captioner, list(drawn(draw, DRAWN, seed=1)))
            for name, draw in kinds.items()
        }
    return report


def store(
    folder: Path, calibration: CalibrationConfig, verdict: VerdictConfig, weight: torch.Tensor
) -> None:
    """Put a fit into a checkpoint folder, in place of one that is there."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"calibration": asdict(calibration), "verdict": asdict(verdict)}
    weights = load_file(folder / "model.safetensors")
    weights["likeness.weight"] = weight.to(torch.float16)
    stored = save(weights, metadata={"format": "pt"})
    replace_file(folder / "model.safetensors", lambda file: file.write(stored))
    text = (json.dumps(config, indent=2) + "\n").encode()
    replace_file(folder / "config.json", lambda file: file.write(text))


def store_document_limits(folder: Path, sure: float, guess: float) -> None:
    """Put the limits of answers beside documents into a checkpoint folder that has a fit of all else."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    limits = {"sure_documents": sure, "guess_documents": guess}
    config["verdict"] = asdict(VerdictConfig(**{**config["verdict"], **limits}))
    text = (json.dumps(config, indent=2) + "\n").encode()
    replace_file(folder / "config.json", lambda file: file.write(text))


def _read(
    data: Path, folder: str, format: str, split: str, options: Mapping[str, str]
) -> list[Record]:
    images = data / options["images"] if "images" in options else None
    return list(read(data / folder, format, split, images))


def _photos(data: Path, splits: Splits, count: int) -> list[ImageSource]:
    """As many photos of each source, drawn by chance but always the same."""
    pictures: list[ImageSource] = []
    for split in splits:
        refs = list({r.image.key: r.image for r in _read(data, *split)}.values())
        chosen = random.Random(0).sample(refs, min(len(refs), count // len(splits)))
        pictures += [ref.read() for ref in chosen]
    return pictures


def _drawings(kinds: Mapping[str, Draw], seed: int) -> list[Image.Image]:
    return [picture for draw in kinds.values() for picture in drawn(draw, DRAWN, seed)]


def _answers(captioner: Captioner, records: Sequence[Record]) -> list[Prediction]:
    return [p for p in predict_answers(captioner, records, Report()) if not p.problem]


def _rights(predictions: Sequence[Prediction]) -> np.ndarray:
    """How right each answer is, from 0 to 1, by the rule of its own dataset."""
    rights = np.zeros(len(predictions))
    for several in (False, True):
        rows = [i for i, p in enumerate(predictions) if (len(p.record.texts) > 1) == several]
        if rows:
            items = evaluate_answers([predictions[i] for i in rows]).items
            rights[rows] = [scores["accuracy"] / 100 for scores in items]
    return rights


def _true(predictions: Sequence[Prediction]) -> np.ndarray:
    """1 of each caption that names an object, and none that no reference has; else 0."""
    texts, references = [p.text for p in predictions], [p.record.texts for p in predictions]
    told = hallucination(texts, references, OBJECT_NAMES)
    return np.array([float(bool(n) and not i) for n, i in zip(told.named, told.invented)])


def _calibration(predictions: Sequence[Prediction]) -> dict[str, float]:
    confidences = np.array([p.confidence for p in predictions])
    rights = _rights(predictions)
    return {
        "n": len(predictions),
        "accuracy": round(100 * float(rights.mean()), 1),
        "ECE": round(calibration_of(confidences, rights).ece, 1),
        "ECE by chance": round(chance_ece(confidences), 1),
    }


def _by_verdict(predictions: Sequence[Prediction], rights: np.ndarray) -> dict[str, Any]:
    """Of each verdict the share of texts that get it, and of these the share that is right, in per cent."""
    verdicts = np.array([p.verdict for p in predictions])
    return {
        name: {
            "share": round(100 * float((verdicts == name).mean()), 1),
            "right": round(100 * float(rights[verdicts == name].mean()), 1),
        }
        for name in ("sure", "unsure", "guess")
        if (verdicts == name).any()
    }


def _guessed(captioner: Captioner, pictures: Sequence[ImageSource]) -> float:
    """The share of pictures about which a caption is a guess, in per cent."""
    guesses = [
        answer.verdict == "guess"
        for start in range(0, len(pictures), BATCH)
        for answer in captioner.caption(pictures[start : start + BATCH])
    ]
    return round(100 * float(np.mean(guesses)), 1)
