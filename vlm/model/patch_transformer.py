"""Pix2Struct's encoder (Lee et al. 2023): an image of any shape as patches, each with its row and its column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from vlm.model.config import Activation, DecoderConfig
from vlm.model.sublayers import Sublayer, norm_layer

PIX2STRUCT = "pix2struct"


class PatchTransformer(nn.Module):
    """Pixels `(B, 3, H, W)` of whole patches to features `(B, h * w, D)`, by T5's layers of self-attention and MLP.

    A row's and a column's place are learned, up to `places` of each. It answers to what `VisionEncoder` asks of timm's
    models.
    """

    num_prefix_tokens = 0

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        patch: int,
        places: int,
        activation: Activation,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.num_features = width
        self.feature_info = [{"num_chs": width, "reduction": patch}]
        layers = DecoderConfig(
            vocab_size=1,  # it reads no tokens
            width=width,
            depth=depth,
            heads=heads,
            pattern="sm",
            mlp_ratio=mlp_ratio,
            activation=activation,
            norm="rms",
            norm_eps=norm_eps,
            gated=True,
            causal=False,
        )
        self.project = nn.Conv2d(3, width, patch, patch)
        self.row_embedding = nn.Embedding(places, width)
        self.column_embedding = nn.Embedding(places, width)
        self.sublayers = nn.ModuleList(Sublayer(kind, layers) for kind in layers.sublayers)
        self.norm = norm_layer(layers, width)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Features of the patches, row by row."""
        patches = self.project(pixels)  # (B, D, h, w)
        rows, columns = (torch.arange(side, device=pixels.device) for side in patches.shape[-2:])
        places = self.row_embedding(rows)[:, None] + self.column_embedding(columns)  # (h, w, D)
        x = (patches.movedim(1, -1) + places).flatten(1, 2)
        for sublayer in cast("Iterable[Sublayer]", self.sublayers):
            x, _, _ = sublayer(x)
        return self.norm(x)
