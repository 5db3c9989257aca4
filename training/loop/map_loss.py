"""A loss that makes attention true: a word's attention learns to lie where hiding the image makes the word unlikely.

It needs no boxes. What hiding does is the model's own, taken anew at every step, so that attention follows what words
depend on. Occlusion is that of Zeiler and Fergus (2014), of the memory's patches in place of pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm.explain.raw_attention import aligned
from vlm.model.decoder import Decoder, Projected, place
from vlm.model.memory import Memory
from vlm.model.model import IGNORE_INDEX, VisionLanguageModel
from vlm.model.vision import probe_pixels

from ..recipe.recipe import MapLoss, RecipeError
from .examples import Rows

# Words that lose less, in nats, hardly depend on the image, and where they lose it is mostly noise.
CLEAR = 0.5
# A window's drop reaches as far as the window, and words that depend on many places lose a little everywhere. As they
# are, drops are so even that flat attention comes close to them; squared, what stands out does.
SHARP = 2


def check_maps(model: VisionLanguageModel, options: MapLoss) -> None:
    """Raise RecipeError where a model's memory has no patches to hide, or a window would hide all of them."""
    if model.config.adapter.kind == "pool":
        raise RecipeError("maps needs a model that attends to patches, not to pooled queries")
    with torch.inference_mode():
        down, across = model.vision.eval()(probe_pixels(model.vision))[1]
    if options.window >= min(down, across):
        raise RecipeError(
            f"maps.window must be less than the model's {down} x {across} patches, not {options.window}"
        )


def map_loss(
    model: VisionLanguageModel,
    memory: Memory,
    projected: Projected,
    chunks: tuple[Rows, ...],
    options: MapLoss,
) -> Tensor:
    """The mean divergence, in nats, of some words' attention on the patches from what hiding these does to them.

    Texts of the batch are drawn by chance, and words of each by how much they depend on the image. Torch's own
    generator decides. The target is where a word's log-probability drops, squared, as shares; the attention is the mean
    over the decoder's alignment heads, and its shares of the patches, so how much goes to other slots is left free.
    """
    grid = memory.image.grid
    assert grid is not None
    ids, targets, images = drawn(chunks, options.texts)
    projected = projected.select(images)
    memory = memory.select(images)
    decoder = model.decoder
    training = decoder.training
    decoder.eval()  # what hiding does must not be what dropout does
    frozen = Projected(tuple((k.detach(), v.detach()) for k, v in projected.layers), projected.mask)
    depends = drops(decoder, frozen, memory, ids, targets, halves(grid)).amax(dim=-1)  # (R, T)
    targets = some_words(targets, depends, options.words)
    covered = windows(grid, options.window, options.stride)
    lost = drops(decoder, frozen, memory, ids, targets, covered)  # (R, T, W)
    decoder.train(training)

    kept = targets != IGNORE_INDEX
    drop = on_grid(lost[kept].clamp(min=0), grid, options.stride)  # (K, P)
    weights = (drop.amax(dim=-1) / CLEAR).clamp(max=1)  # (K,)
    attention = decoder(ids, projected, explicit=True).cross_attention
    mean = aligned(attention, decoder.config.alignment_heads)[kept]  # (K, S)
    image = memory.image
    shares = mean[:, image.start : image.stop].float()
    shares = shares / shares.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    wanted = drop**SHARP
    wanted = wanted / wanted.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    divergence = F.kl_div(shares.clamp(min=1e-6).log(), wanted, reduction="none").sum(dim=-1)
    return (weights * divergence).sum() / weights.sum().clamp(min=1e-6)


def drawn(chunks: tuple[Rows, ...], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and targets `(R, T)` and images `(R,)` of at most `count` rows of a batch, drawn by chance."""
    length = max(rows.ids.shape[1] for rows in chunks)
    ids = torch.cat([F.pad(rows.ids, (0, length - rows.ids.shape[1])) for rows in chunks])
    targets = torch.cat(
        [
            F.pad(rows.targets, (0, length - rows.targets.shape[1]), value=IGNORE_INDEX)
            for rows in chunks
        ]
    )
    images = torch.cat([rows.image for rows in chunks])
    chosen = torch.randperm(len(ids), device=ids.device)[:count]
    return ids[chosen], targets[chosen], images[chosen]


def some_words(targets: Tensor, depends: Tensor, count: int) -> Tensor:
    """The targets `(R, T)` with all but `count` of each row ignored, drawn by how much each `depends` on the image."""
    real = targets != IGNORE_INDEX
    chances = torch.where(real, depends.clamp(min=1e-3), 0)
    # The largest of exponential draws over their rates: chance without putting back, and no row needs enough of them.
    keys = torch.empty_like(chances).exponential_() / chances
    ranks = keys.argsort(dim=1).argsort(dim=1)
    return targets.masked_fill(~real | (ranks >= count), IGNORE_INDEX)


def halves(grid: tuple[int, int]) -> Tensor:
    """The grid's upper, lower, left and right half, `(4, h * w)`: something of the image stays."""
    rows, columns = _cells(grid)
    upper, left = rows < grid[0] / 2, columns < grid[1] / 2
    return torch.stack([upper, ~upper, left, ~left])


@lru_cache(maxsize=8)
def windows(grid: tuple[int, int], side: int, stride: int) -> Tensor:
    """Which patches each window covers, `(W, h * w)`: squares around every `stride`-th cell, cut at the border."""
    rows, columns = _cells(grid)
    covers = [
        ((rows - y).abs() < side / 2) & ((columns - x).abs() < side / 2)
        for y, x in _centres(grid, stride)
    ]
    return torch.stack(covers)


def on_grid(values: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """Values of windows `(K, W)` as values of patches `(K, h * w)`, each that of the window around it."""
    if stride == 1:
        return values
    coarse = values.unflatten(1, (-(-grid[0] // stride), -(-grid[1] // stride)))
    size = (coarse.shape[1] * stride, coarse.shape[2] * stride)
    fine = F.interpolate(coarse[:, None], size, mode="bilinear")[:, 0]
    return fine[:, : grid[0], : grid[1]].flatten(1)


def _cells(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The row and the column of each cell, `(h * w,)`."""
    rows = torch.arange(grid[0])[:, None].expand(grid).flatten()
    return rows, torch.arange(grid[1])[None].expand(grid).flatten()


def _centres(grid: tuple[int, int], stride: int) -> list[tuple[float, float]]:
    middle = (stride - 1) / 2
    return [
        (row + middle, column + middle)
        for row in range(0, grid[0], stride)
        for column in range(0, grid[1], stride)
    ]


@torch.no_grad()
def drops(
    decoder: Decoder,
    projected: Projected,
    memory: Memory,
    ids: Tensor,
    targets: Tensor,
    covered: Tensor,
) -> Tensor:
    """How many nats of log-probability each target loses when the patches of each window are hidden, `(R, T, W)`.

    `ids` and `targets` are `(R, T)`, a row of `projected` and `memory` for each; `covered` is `(W, P)`. Where there is
    nothing to predict it is 0. All windows are one batch over one projection, which is not copied.
    """
    image = memory.image
    count, length = 1 + len(covered), ids.shape[1]
    shown = memory.real[:, None].repeat(1, count, 1)  # (R, 1 + W, S); the first hides nothing
    shown[:, 1:, image.start : image.stop] &= ~covered.to(shown.device)
    # Queries of the rows of one image follow each other.
    mask = shown.repeat_interleave(length, dim=1)[:, None]  # (R, 1, (1 + W) * T, S)
    positions, causal = place(decoder.config, ids, None, None)
    repeated = ids.repeat_interleave(count, dim=0)
    run = decoder.run(repeated, positions, projected.layers, (), causal, mask, explicit=False)
    kept = targets != IGNORE_INDEX  # (R, T)
    hidden = run.hidden.unflatten(0, (len(ids), count)).transpose(1, 2)[kept]  # (K, 1 + W, D)
    logprobs = decoder.logits(hidden).float().log_softmax(dim=-1)
    wanted = targets[kept][:, None, None].expand(-1, count, 1)
    chosen = logprobs.gather(2, wanted)[..., 0]  # (K, 1 + W)
    lost = chosen.new_zeros(*ids.shape, len(covered))
    lost[kept] = chosen[:, :1] - chosen[:, 1:]
    return lost
