"""Hiding in the photo itself: the slow reference for `vlm.explain.occlusion`.

"Visualizing and understanding convolutional networks", Zeiler and Fergus, ECCV 2014. Patches of an encoder know of each
other, so what is hidden in the memory may still be told by its neighbours; here it is not, and each square costs an
encoding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.hiding import chosen_logprobs, falls, windows
from vlm.explain.method import Choice, Looks, MethodError
from vlm.model.decoder import Projected

BATCH = 8  # photos encoded together


@torch.inference_mode()
def pixel_occlusion(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """How many nats of log-probability a token loses as squares of the photo are filled with the encoder's mean colour.

    The squares are those of `vlm.explain.hiding.windows`; what else the memory holds is made anew from what is left,
    and has no share. Raises MethodError where there is no photo any more.
    """
    if finished.pixels is None:
        raise MethodError("maps by pixels need the whole photo, of which nothing is hidden")
    pixels = finished.pixels().to(finished.model.device)  # (3, H, W); 0 is the mean
    grid = finished.memory.image.grid
    assert grid is not None
    hidden, around = windows(grid)
    covers = torch.cat([torch.zeros_like(hidden[:1]), hidden])
    above = round(finished.header * pixels.shape[1])
    photo = torch.Size((pixels.shape[1] - above, pixels.shape[2]))

    def variants() -> Iterator[Projected]:
        for part in covers.split(BATCH):
            hidden = on_pixels(part.to(pixels.device), grid, photo)
            hidden = F.pad(hidden, (0, 0, above, 0))  # (n, H, W)
            photos = pixels.masked_fill(hidden[:, None], 0)
            yield finished.model.project(finished.model.encode(photos))

    def shared(lost: Tensor) -> Looks:
        lost = lost @ around.T.to(lost.device)
        shares = lost / lost.sum(dim=1, keepdim=True).clamp(min=1e-12)
        return Looks(shares.unflatten(1, grid), {})

    of_text, of_question = falls(
        finished, variants(), lambda logits: chosen_logprobs(logits, finished.ids)
    )
    return shared(of_text), None if of_question is None else shared(of_question)


def on_pixels(cells: Tensor, grid: tuple[int, int], size: torch.Size) -> Tensor:
    """Cells of a grid `(n, h * w)` as pixels of the encoder's input, `(n, H, W)`."""
    wide = cells.float().unflatten(1, grid)[:, None]
    return F.interpolate(wide, tuple(size), mode="nearest-exact")[:, 0] > 0.5
