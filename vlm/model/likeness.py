"""How much an image is like the photos that a model learnt from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.model.memory import Memory


class PhotoLikeness(nn.Module):
    """Fisher's linear discriminant between photos and drawings, pages or noise, of the mean of an image's slots.

    High is like a photo. `weight` is `(D,)`, fitted by `training.calibrate`; `VerdictConfig.photo` is the least of a
    photo.
    """

    weight: Tensor

    def __init__(self, memory_width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(memory_width))

    def forward(self, memory: Memory) -> Tensor:
        """One value an image, `(B,)`."""
        return mean_slot(memory) @ self.weight


def mean_slot(memory: Memory) -> Tensor:
    """The mean of an image's own slots, `(B, D)`."""
    image = memory.image
    return memory.tokens[:, image.start : image.stop].mean(dim=1)
