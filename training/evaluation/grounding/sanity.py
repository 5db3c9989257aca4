"""Whether maps depend on what they should, and on nothing else: rank correlations of a word's maps.

After "Sanity checks for saliency maps" (Adebayo et al., NeurIPS 2018): a map that stays as the model's layers are
destroyed from the last down explains the picture and not the model. A map of another word, or of the same word about
another picture, should be another; that of a picture mirrored, moved or saved anew should be the same.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from PIL import Image, ImageOps

from vlm.captioner import Captioner
from vlm.encoded_image import EncodedImage
from vlm.model.model import VisionLanguageModel
from vlm.prompts import text_ids

from ...data.report import Report
from ..metrics.statistics import Metric
from .explainers import Explainer
from .places import Example, word_positions
from .pointing import encoded, over_photos

QUALITY = 40  # of the JPEG that a picture is saved as anew


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of two maps; 0 where one of them is even."""
    ranks = [_ranks(values) for values in (one, other)]
    spread = [r - r.mean() for r in ranks]
    size = float(np.linalg.norm(spread[0]) * np.linalg.norm(spread[1]))
    return float((spread[0] * spread[1]).sum() / size) if size else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from the least up; equal values share the mean of theirs."""
    _, group, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def destroyed(
    model: VisionLanguageModel, seed: int = 0
) -> Iterator[tuple[str, VisionLanguageModel]]:
    """The model with its decoder's layers destroyed, from the last down to all of them, and then its adapter, too.

    Each tensor's numbers are shuffled, so their scale stays. The model itself stays as it was.
    """
    generator = torch.Generator().manual_seed(seed)
    config, broken = model.config.decoder, deepcopy(model)
    sublayers = list(broken.decoder.sublayers)
    for count in range(1, config.depth + 1):
        stop = len(sublayers) - (count - 1) * len(config.pattern)
        for sublayer in sublayers[stop - len(config.pattern) : stop]:
            _shuffle(sublayer, generator)
        yield f"last {count} layers" if count > 1 else "last layer", broken
    _shuffle(broken.adapter, generator)
    yield "adapter, too", broken


@torch.no_grad()
def _shuffle(module: torch.nn.Module, generator: torch.Generator) -> None:
    for parameter in module.parameters():
        order = torch.randperm(parameter.numel(), generator=generator)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def saved_anew(picture: Image.Image) -> Image.Image:
    """The picture as a JPEG of low quality."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return Image.open(buffer).convert("RGB")


def shifted(picture: Image.Image, share: float) -> Image.Image:
    """The picture moved to the right by a share of its width; what comes in is its left column."""
    pixels = np.asarray(picture)
    step = round(share * picture.width)
    start = np.repeat(pixels[:, :1], step, axis=1)
    return Image.fromarray(np.concatenate([start, pixels[:, : picture.width - step]], axis=1))


Compared = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A map and that of a changed picture to the parts of them that should be alike."""


def check(
    captioner: Captioner,
    examples: Sequence[Example],
    explainers: Mapping[str, Explainer],
    report: Report,
) -> dict[str, dict[str, Metric]]:
    """Rank correlations by method and check, with intervals over photos.

    They are of the last words of phrases in human captions, which are typed in. The captioner's model must be plain
    torch, of which a copy can be destroyed.
    """
    assert isinstance(captioner.model, VisionLanguageModel)
    photos = [
        (number, image, own[0]) for number, image, own in encoded(captioner, examples, report)
    ]
    told: dict[str, dict[str, list[tuple[float, int]]]] = {
        name: defaultdict(list) for name in explainers
    }

    def maps_of(name: str, image: EncodedImage, example: Example) -> list[np.ndarray]:
        ids, positions = last_words(captioner, example)
        maps = explainers[name](image, ids, None)
        return [maps[position] for position in positions]

    maps = {(n, name): maps_of(name, i, e) for n, i, e in photos for name in explainers}
    for (number, _, example), (_, other, _) in zip(photos, photos[1:] + photos[:1]):
        for name in explainers:
            own = maps[number, name]
            for what, others in (
                ("another word", own[1:]),
                ("another picture", maps_of(name, other, example)),
            ):
                told[name][what] += [(rank_correlation(*pair), number) for pair in zip(own, others)]

    def change(
        what: str, using: Captioner, changed: Callable[[Image.Image], Image.Image], parts: Compared
    ) -> None:
        for number, image, example in photos:
            again = using.encode(changed(image.picture))
            for name in explainers:
                pairs = zip(maps[number, name], maps_of(name, again, example))
                told[name][what] += [(rank_correlation(*parts(*p)), number) for p in pairs]

    for what, broken in destroyed(captioner.model):
        change(what, Captioner(broken, captioner.tokenizer), lambda picture: picture, whole)
    change("mirrored", captioner, ImageOps.mirror, lambda one, other: (one, other[:, ::-1]))
    grid = photos[0][1].memory.image.grid
    assert grid is not None
    change(
        "moved by a cell",
        captioner,
        lambda picture: shifted(picture, 1 / grid[1]),
        lambda one, other: (one[:, :-1], other[:, 1:]),
    )
    change("saved anew", captioner, saved_anew, whole)
    return {
        name: {
            what: over_photos(*map(np.asarray, zip(*pairs)))
            for what, pairs in by_what.items()
            if pairs
        }
        for name, by_what in told.items()
    }


def whole(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return one, other


def last_words(captioner: Captioner, example: Example) -> tuple[list[int], list[int]]:
    """A caption's ids, and which of its words are the last of its phrases."""
    tokenizer = captioner.tokenizer
    prompt = len(captioner.prompt(None).ids)
    ids = text_ids(tokenizer, example.text)[: captioner.model.config.decoder.max_length - prompt]
    words = [word.text for word in tokenizer.words(ids)]
    found = [word_positions(tokenizer, named.words, words) for named in example.named]
    return ids, sorted({positions[-1] for positions in found if positions})
