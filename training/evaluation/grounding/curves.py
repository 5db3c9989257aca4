"""Deletion and insertion: what a word's probability does as the picture goes, or comes, in the order of its map.

The causal measures of RISE (Petsiuk, Das and Saenko, BMVC 2018), on the log-probability of a word after those before
it. The picture itself changes, and is encoded anew.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vlm.captioner import Captioner
from vlm.encoded_image import EncodedImage
from vlm.prompts import caption_prompt, text_ids

from ...data.report import Report
from ..metrics.statistics import Metric
from .explainers import Explainer
from .places import Example
from .pointing import encoded, over_photos

Side = Literal["deletion", "insertion"]
Fill = Literal["mean", "blur"]
FILLS: tuple[Fill, ...] = ("mean", "blur")

STEPS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # shares of the picture; early ones tell maps apart
MATTERS = (
    1.0  # nats that a word loses with the whole picture, from which on the image mattered for it
)
PICTURES = 16  # encoded together


@dataclass
class Curves:
    """The areas under one method's curves, in nats, a row for each word, and what each word loses with all of it."""

    deletion: list[float] = field(default_factory=list)
    insertion: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    photos: list[int] = field(default_factory=list)

    def area(self, of: Side, matters: bool) -> Metric:
        """The mean area over all words, or over those for which the image mattered."""
        kept = np.asarray(self.lost) >= MATTERS if matters else np.full(len(self.lost), True)
        return over_photos(np.asarray(getattr(self, of))[kept], np.asarray(self.photos)[kept])


def curves(
    captioner: Captioner,
    examples: Iterable[Example],
    explainers: Mapping[str, Explainer],
    fill: Fill,
    report: Report,
) -> dict[str, Curves]:
    """The curves of one word of each photo's first caption, which is typed in.

    The word is drawn by chance with a fixed seed, whatever it is. `fill` is what stands where the picture is gone: the
    mean colour of the encoder's training images, or the picture itself, blurred beyond recognition.
    """
    found = {name: Curves() for name in explainers}
    room = captioner.model.config.decoder.max_length - len(caption_prompt(captioner.tokenizer).ids)
    for number, image, own in encoded(captioner, examples, report):
        ids = text_ids(captioner.tokenizer, own[0].text)[:room]
        words = captioner.tokenizer.words(ids)
        position = random.Random(f"{number}").randrange(len(words))
        shown = {
            name: list(_masks(_order(explain(image, ids, None)[position], image)))
            for name, explain in explainers.items()
        }
        every = sorted({mask for masks in shown.values() for mask in masks})
        tokens = list(words[position].tokens)
        logprobs = _logprobs(captioner, image, ids[: tokens[-1] + 1], every, fill)
        for name, masks in shown.items():
            values = [float(logprobs[mask][tokens].sum()) for mask in masks]
            deletion, insertion = values[: len(STEPS)], values[len(STEPS) :]
            found[name].deletion.append(float(np.trapezoid(deletion, STEPS)))
            found[name].insertion.append(float(np.trapezoid(insertion, STEPS)))
            found[name].lost.append(deletion[0] - deletion[-1])
            found[name].photos.append(number)
    return found


def _order(weights: np.ndarray, image: EncodedImage) -> np.ndarray:
    """The patches from the highest weight down, `(h * w,)`."""
    grid = image.memory.image.grid
    assert grid is not None
    on_patches = F.interpolate(torch.from_numpy(weights)[None, None].double(), grid, mode="area")
    return (-on_patches.flatten()).argsort(stable=True).numpy()


def _masks(order: np.ndarray) -> Iterator[bytes]:
    """Which patches are shown at each step: as they are deleted, and then as they are inserted."""
    for inserting in (False, True):
        for step in STEPS:
            shown = np.full(len(order), not inserting)
            shown[order[: round(step * len(order))]] = inserting
            yield shown.tobytes()


@torch.inference_mode()
def _logprobs(
    captioner: Captioner,
    image: EncodedImage,
    ids: Sequence[int],
    masks: Sequence[bytes],
    fill: Fill,
) -> dict[bytes, Tensor]:
    """The log-probability of each token `(T,)` of a caption, with the patches that each mask shows."""
    model, tokenizer = captioner.model, captioner.tokenizer
    grid = image.memory.image.grid
    assert grid is not None
    pixels = captioner.preprocess.pixels(image.photo.seen).to(model.device)  # (3, H, W)
    side = max(pixels.shape[1:]) // 4
    gone = torch.zeros_like(pixels) if fill == "mean" else gaussian_blur(pixels, 2 * side + 1, side)
    prompt = caption_prompt(tokenizer).ids
    sequence = torch.tensor([[*prompt, *ids[:-1]]], device=model.device)
    targets = torch.tensor(ids, device=model.device)
    found: dict[bytes, Tensor] = {}
    for start in range(0, len(masks), PICTURES):
        part = masks[start : start + PICTURES]
        shown = torch.from_numpy(np.stack([np.frombuffer(mask, dtype=bool) for mask in part]))
        cells = shown.float().unflatten(1, grid)[:, None].to(model.device)  # (B, 1, h, w)
        share = F.interpolate(cells, pixels.shape[1:], mode="nearest")
        changed = share * pixels + (1 - share) * gone
        changed = changed.contiguous(memory_format=torch.channels_last)  # fastest for convolutions
        projected = model.project(model.encode(changed))
        hidden = model.decoder(sequence.expand(len(part), -1), projected).hidden
        logits = model.decoder.logits(hidden[:, len(prompt) - 1 :])
        chosen = logits.log_softmax(dim=-1).gather(2, targets.expand(len(part), -1)[..., None])
        found.update(zip(part, chosen[..., 0].cpu()))
    return found
