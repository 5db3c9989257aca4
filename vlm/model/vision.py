"""Pixels to patch features with their grid, from any timm model."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any, Literal, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vlm.images import Preprocess
from vlm.model.config import VisionConfig


class VisionEncoder(nn.Module):
    """A timm model without its head: pixels `(B, 3, H, W)` to patches `(B, N, D)` and their grid `(h, w)`.

    ViT prefix tokens (class, registers) are dropped, or with `prefix` kept in front of the patches,
    `(B, P + N, D)`; feature maps of CNNs and of hierarchical transformers are flattened row by row. With `detail`
    patches are `(B, N, D + 4 d)`: behind a patch's own `width` D are the `detail_width` d channels of its four cells.
    """

    def __init__(self, config: VisionConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        size = config.preprocess.size
        options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0, **config.options}
        self.trunk: Any
        try:
            try:
                self.trunk = timm.create_model(config.name, img_size=size, **options)
            except TypeError:  # models that take any size have no img_size
                self.trunk = timm.create_model(config.name, **options)
        except RuntimeError as error:
            raise ValueError(f"timm cannot make {config.name!r}: {error}") from None
        if config.norm_eps is not None:
            for module in self.trunk.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = config.norm_eps
        self.width: int = self.trunk.num_features
        self.detail_width = self._detail_width() if config.detail else 0

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.config.detail:
            return self._with_detail(pixels)
        features = self.trunk.forward_features(pixels)
        if features.ndim == 3:  # (B, prefix + N, D)
            prefix = getattr(self.trunk, "num_prefix_tokens", 0)
            grid = self._token_grid(features.shape[1] - prefix, pixels)
            return features if self.config.prefix else features[:, prefix:], grid
        if self._channels_last(features):  # (B, h, w, D)
            grid = (features.shape[1], features.shape[2])
            return features.flatten(1, 2), grid
        grid = (features.shape[2], features.shape[3])  # (B, D, h, w)
        return features.flatten(2).transpose(1, 2), grid

    def _with_detail(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        features, (fine,) = self.trunk.forward_intermediates(pixels, indices=[-2])
        grid = (features.shape[2], features.shape[3])
        cells = F.pixel_unshuffle(fine, 2)  # (B, d * 4, h, w), from (B, d, 2 h, 2 w)
        return torch.cat([features, cells], dim=1).flatten(2).transpose(1, 2), grid

    def _detail_width(self) -> int:
        """Channels of the map of half the last stride. Raises ValueError where the encoder has none."""
        levels = getattr(self.trunk, "feature_info", [])[-2:]
        strides = [level["reduction"] for level in levels]
        if len(levels) < 2 or strides[1] != 2 * strides[0]:
            raise ValueError(f"{self.config.name} has no map of half its stride for vision.detail")
        return levels[0]["num_chs"]

    def _channels_last(self, features: Tensor) -> bool:
        return getattr(self.trunk, "output_fmt", None) == "NHWC" or (
            features.shape[-1] == self.width and features.shape[1] != self.width
        )

    def _token_grid(self, tokens: int, pixels: Tensor) -> tuple[int, int]:
        """Rows and columns of a flat token sequence, from the input's aspect ratio."""
        height, width = pixels.shape[-2:]
        embed = getattr(self.trunk, "patch_embed", None)
        if embed is not None and hasattr(embed, "dynamic_feat_size"):
            grid = tuple(embed.dynamic_feat_size((height, width)))
            if grid[0] * grid[1] == tokens:
                return grid
        rows = max(1, round((tokens * height / width) ** 0.5))
        if tokens % rows:
            raise ValueError(
                f"{self.config.name} gives {tokens} patches, which fill no {height} x {width} grid"
            )
        return rows, tokens // rows


def default_preprocess(name: str, size: tuple[int, int] | None = None) -> Preprocess:
    """The preprocessing that timm's model was trained with, the whole image squashed to `size` `(height, width)`."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise ValueError(f"timm has no model {name!r}")
    return Preprocess(
        size=size or cast("tuple[int, int]", config.input_size[1:]),
        mean=cast("tuple[float, float, float]", config.mean),
        std=cast("tuple[float, float, float]", config.std),
        interpolation=cast("Literal['bilinear', 'bicubic', 'lanczos']", config.interpolation),
    )


def probe_pixels(encoder: VisionEncoder) -> Tensor:
    """Random pixels `(1, 3, H, W)` in the encoder's input size, the same each time, to hold a copy against it."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, *encoder.config.preprocess.size, generator=generator)


@torch.no_grad()
def folded(encoder: VisionEncoder) -> VisionEncoder:
    """A copy for inference: each batch norm folded into the convolution before it, channels last in memory.

    The copy is checked against the original on random pixels; an encoder whose modules do not run in the order of
    their definition is returned as it was, and so is one whose only convolution makes the patches.
    """
    if sum(isinstance(module, nn.Conv2d) for module in encoder.modules()) < 2:
        return encoder.eval()
    copy = deepcopy(encoder).eval()
    for module in copy.modules():
        children = list(module.named_children())
        for (_, convolution), (name, norm) in pairwise(children):
            if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.running_mean is None or norm.running_var is None:
                continue
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            # timm's BatchNormAct2d also holds the activation.
            setattr(module, name, getattr(norm, "act", nn.Identity()))
    copy = copy.to(memory_format=torch.channels_last)
    probe = probe_pixels(encoder)
    expected, actual = encoder.eval()(probe)[0], copy(probe)[0]
    return copy if torch.allclose(expected, actual, atol=1e-3, rtol=1e-3) else encoder
