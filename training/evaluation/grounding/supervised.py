"""A row that has seen boxes: maps that the model makes anyway, weighted so that phrases of train photos lie in boxes.

It says how far a few numbers get that were fitted to boxes, and is no method of the library, whose maps have seen none.
A word's map is the product of others to powers, as multinomial logistic regression over patches makes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm.captioner import Captioner
from vlm.encoded_image import EncodedImage
from vlm.prompts import text_ids

from ...data.atomic import replace_file
from ...data.records import DataError
from ...data.report import Report
from .explainers import Explainer, by_method
from .places import Example, word_positions
from .pointing import encoded, seen

NAME = "supervised (saw boxes)"
FITTED = 300  # train photos whose boxes are seen
MAPS = ("logit", "attention")
FLOOR = 0.1  # of the average: what no map excludes more than this
STEPS = 200
RATE = 0.05


@dataclass(frozen=True, eq=False)
class Boxed:
    """Words of phrases whose boxes are known: the logarithms of their `maps` `(W, M, P)`, which share of each patch
    lies `inside` the boxes of the word's phrase `(W, P)`, and which `phrase` that is, `(W,)`, from 0."""

    maps: Tensor
    inside: Tensor
    phrase: Tensor


def log_maps(image: EncodedImage, ids: Sequence[int], question: str | None = None) -> Tensor:
    """The logarithms of a text's maps, in multiples of the average, `(words, M, h, w)`; see `MAPS`.

    Raises MethodError for a model that has no logit maps.
    """
    found = [np.stack(by_method(name)(image, ids, question)) for name in MAPS]
    maps = torch.from_numpy(np.stack(found, axis=1)).float()  # (words, M, h, w)
    return (maps * maps[0, 0].numel() + FLOOR).log()


def read_boxed(captioner: Captioner, examples: Sequence[Example], report: Report) -> Boxed:
    """The words of phrases of captions that are typed in. Raises DataError where no caption has a phrase."""
    maps: list[Tensor] = []
    inside: list[Tensor] = []
    phrase: list[int] = []
    room = captioner.model.config.decoder.max_length - len(captioner.prompt(None).ids)
    for _, image, own in encoded(captioner, examples, report):
        for example in own:
            ids = text_ids(captioner.tokenizer, example.text)[:room]
            words = [word.text for word in captioner.tokenizer.words(ids)]
            of_words = log_maps(image, ids)
            grid = (of_words.shape[2], of_words.shape[3])
            for named in example.named:
                positions = list(word_positions(captioner.tokenizer, named.words, words))
                coverage = torch.from_numpy(named.place.coverage(grid, seen(image))).float()
                maps += of_words[positions].flatten(2)
                inside += [coverage.flatten()] * len(positions)
                phrase += [phrase[-1] + 1 if phrase else 0] * len(positions)
    if not maps:
        raise DataError("no caption has a phrase with boxes to fit weights to")
    return Boxed(torch.stack(maps), torch.stack(inside), torch.tensor(phrase))


def fit(boxed: Boxed) -> Tensor:
    """The power of at least 0 of each map, `(M,)`, by which the most of phrases' maps falls into their boxes.

    What is made small is the mean of -log(share of a phrase's map inside), from powers of 1/2 on.
    """
    count = torch.bincount(boxed.phrase)
    powers = torch.full((boxed.maps.shape[1],), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([powers], lr=RATE)
    for _ in range(STEPS):
        words = torch.einsum("wmp,m->wp", boxed.maps, powers).softmax(dim=1)
        shares = (words * boxed.inside).sum(dim=1)
        # A phrase's map is the mean of its words' maps, and so is the share of it that is inside.
        of_phrase = torch.zeros(len(count)).index_add(0, boxed.phrase, shares) / count
        loss = -of_phrase.clamp(min=1e-6).log().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            powers.clamp_(min=0)
    return powers.detach()


def by_powers(powers: Tensor) -> Explainer:
    """A text's maps to `powers` `(M,)`, multiplied."""

    def explain(
        image: EncodedImage, ids: Sequence[int], question: str | None = None
    ) -> list[np.ndarray]:
        together = torch.einsum("wmyx,m->wyx", log_maps(image, ids, question), powers)
        return list(together.flatten(1).softmax(dim=1).view_as(together).numpy())

    return explain


def write_powers(file: Path, powers: Tensor, photos: int) -> None:
    """Keep powers as JSON, with the number of photos that they were fitted to. Raises DataError where that fails."""
    values = {
        "fitted_to": f"boxes of {photos} photos of Flickr8k train",
        "powers": {name: round(float(power), 4) for name, power in zip(MAPS, powers)},
    }
    content = json.dumps(values, indent=1) + "\n"
    try:
        replace_file(file, lambda opened: opened.write(content.encode()))
    except OSError as error:
        raise DataError(f"the powers {file} cannot be written: {error.strerror}") from None


def read_powers(file: Path) -> Tensor:
    """What `write_powers` wrote, `(M,)`. Raises DataError for any other file."""
    try:
        powers = json.loads(file.read_text(encoding="utf-8"))["powers"]
        return torch.tensor([float(powers[name]) for name in MAPS])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"--supervised: {file} holds no powers that --fit-supervised wrote ({error})"
        ) from None
