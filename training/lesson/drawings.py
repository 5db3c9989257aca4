"""Pictures of the lesson: one look in numbers, self- beside cross-attention, and what a photo's words draw on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlm.model.attention import causal_mask, split_heads

from .pairs import Vocabulary
from .translator import Translator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vlm.encoded_image import EncodedImage
    from vlm.explain.maps import WordMap

SHOWN = 6  # channels of a vector
DPI = 80
SHEET = 1000  # pixels


@dataclass(frozen=True)
class Inside:
    """All that happens in one head of one cross-attention as each of T target words is chosen, of width D.

    `queries` `(T, D)`, `keys` and `values` `(S, D)`; `scores` `(T, S)` are queries times keys over the root of D, and
    `weights` their softmax; `taken` `(T, D)` are weights times values. `back` `(T, T)` is the decoder's self-attention
    in front of it, and `among` `(S, S)` the first of the reader's.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    queries: Tensor
    keys: Tensor
    values: Tensor
    scores: Tensor
    weights: Tensor
    taken: Tensor
    back: Tensor
    among: Tensor


@torch.inference_mode()
def look_inside(
    model: Translator, source: Sequence[str], target: Sequence[str], layer: int = 0, head: int = 0
) -> Inside:
    """One head's arithmetic, step by step beside the decoder's own pass; self-attention is the mean of its heads."""
    decoder = model.decoder
    ids = torch.tensor([[Vocabulary.START, *model.vocabulary.encode(target[:-1])]])  # (1, T)
    x = _embedded(decoder, ids)
    mask = causal_mask(len(target), 0, ids.device)
    projected = decoder.project(model.encode([source])).layers
    sublayers: list[Any] = list(decoder.sublayers)
    crossed, back = 0, torch.empty(0)
    for sublayer in sublayers:
        if sublayer.kind == "s":
            x, _, back = sublayer(x, None, None, mask, True)
        elif sublayer.kind == "m":
            x, _, _ = sublayer(x)
        elif crossed < layer:
            x, _, _ = sublayer(x, projected[crossed])
            crossed += 1
        else:
            break
    body = sublayer.body
    queries = body.query(sublayer.norm(x))
    queries, _ = split_heads(torch.cat([queries, queries], dim=-1), body.heads)  # (1, H, T, D)
    keys, values = projected[layer]
    own, key, value = queries[0, head], keys[0, head], values[0, head]
    scores = own @ key.T / own.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1)
    first: Any = model.reader.sublayers[0]
    words = torch.tensor([model.vocabulary.encode(source)])
    _, _, among = first(_embedded(model.reader, words), None, None, None, True)
    return Inside(
        tuple(source),
        tuple(target),
        own,
        key,
        value,
        scores,
        weights,
        weights @ value,
        back[0].mean(dim=0),
        among[0].mean(dim=0),
    )


def _embedded(decoder: Any, ids: Tensor) -> Tensor:
    """What the first sublayer gets of ids `(1, T)`."""
    places = decoder.position_embedding(torch.arange(ids.shape[1]))
    return decoder.embedding_norm(decoder.token_embedding(ids) + places)


def draw_numbers(path: Path, inside: Inside, place: int) -> None:
    """Query, keys, scores, weights, values and what is taken, as the target's word at a `place` is chosen."""
    from matplotlib.figure import Figure

    words = list(inside.source)
    figure = Figure(figsize=(14, 1.9 + 0.42 * len(words)), layout="constrained")
    grid = figure.subplots(2, 4, width_ratios=[6, 1.3, 1.3, 6], height_ratios=[1, len(words)])
    chosen = inside.target[place]
    before = inside.target[place - 1] if place else "<start>"
    _table(grid[0, 0], inside.queries[place : place + 1, :SHOWN], [f"query after “{before}”"])
    _table(grid[1, 0], inside.keys[:, :SHOWN], [f"key of “{word}”" for word in words])
    _table(grid[1, 1], inside.scores[place][:, None], None, "scores")
    _table(grid[1, 2], inside.weights[place][:, None], None, "weights", share=True)
    _table(grid[1, 3], inside.values[:, :SHOWN], [f"value of “{word}”" for word in words])
    _table(grid[0, 3], inside.taken[place : place + 1, :SHOWN], [f"taken for “{chosen}”"])
    for empty in grid[0, 1:3]:
        empty.axis("off")
    width = inside.queries.shape[1]
    figure.suptitle(
        f"Which source word does “{chosen}” take from? The first {SHOWN} of {width} numbers of each vector; "
        f"score = query · key / √{width}"
    )
    figure.savefig(path, dpi=DPI)


def draw_self_and_cross(path: Path, inside: Inside) -> None:
    """The reader's words among themselves, the target's words looking back, and the target's words at the source's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.4), layout="constrained")
    axes = figure.subplots(1, 3)
    written = ["<start>", *inside.target[:-1]]
    parts = (
        (
            inside.among,
            inside.source,
            inside.source,
            "self-attention of the source:\nall words see all",
        ),
        (inside.back, written, written, "self-attention of the target:\neach sees those before it"),
        (
            inside.weights,
            inside.target,
            inside.source,
            "cross-attention:\nthe target’s words (rows) see the source’s",
        ),
    )
    for axis, (weights, rows, columns, title) in zip(axes, parts):
        axis.imshow(weights.numpy(), cmap="magma", vmin=0, vmax=1)
        axis.set_xticks(range(len(columns)), columns, rotation=50, ha="right")
        axis.set_yticks(range(len(rows)), rows)
        axis.set_title(title)
    figure.savefig(path, dpi=DPI)


def draw_patches(path: Path, image: EncodedImage, maps: Sequence[WordMap]) -> None:
    """A sheet of words over their photo, small enough for a page."""
    from vlm.explain.overlay import sheet

    drawn = sheet(image.picture, image.frame, maps, style="heat")
    drawn.thumbnail((SHEET, SHEET))
    drawn.save(path, quality=80)


def draw_shares(path: Path, maps: Sequence[WordMap]) -> None:
    """How much of each word's attention fell on each segment of a photo's memory."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for word in maps for name in word.elsewhere))
    shares = {"patches": [word.mass for word in maps]}
    shares |= {name: [word.elsewhere.get(name, 0.0) for word in maps] for name in names}
    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    floor = [0.0] * len(maps)
    places = range(len(maps))
    for name, heights in shares.items():
        axis.bar(places, heights, bottom=floor, label=name)
        floor = [low + high for low, high in zip(floor, heights)]
    axis.set_xticks(places, [word.text for word in maps])
    axis.set_ylabel("share of attention")
    axis.set_ylim(0, 1)
    figure.legend(loc="outside right center")
    figure.savefig(path, dpi=DPI)


def _table(
    axis: Axes,
    numbers: Tensor,
    rows: Sequence[str] | None,
    title: str = "",
    share: bool = False,
) -> None:
    """Numbers in coloured cells: blue below 0 and red above, or darker the larger the share."""
    most = max(float(numbers.abs().max()), 1e-6)
    name, low, high = ("Greys", 0.0, 1.6) if share else ("RdBu_r", -2 * most, 2 * most)
    axis.imshow(numbers.numpy(), aspect="auto", cmap=name, vmin=low, vmax=high)
    for row, line in enumerate(numbers.tolist()):
        for column, number in enumerate(line):
            axis.text(column, row, f"{number:.2f}", ha="center", va="center")
    axis.set_xticks([])
    axis.set_yticks(range(len(rows or ())), rows or ())
    axis.set_title(title)
