"""Pixels to patch features with their grid, from any timm model."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vlm.images import Preprocess
from vlm.images.frame import Interpolation
from vlm.lean_imports import lean_timm
from vlm.model.config import ConfigError, VisionConfig
from vlm.model.patch_transformer import PIX2STRUCT, PatchTransformer

with lean_timm():
    import timm

STRIDES = (8, 14, 16, 32)  # pixels of a patch's side, where an encoder does not say

# A buffer that timm makes of the grid alone. Some of an older timm's models save it, and a checkpoint is to fit both.
_COMPUTED = "relative_position_index"


class VisionEncoder(nn.Module):
    """A timm model without its head: pixels `(B, 3, H, W)` to patches `(B, N, D)` and their grid `(h, w)`.

    ViT prefix tokens (class, registers) are dropped, or with `prefix` kept in front of the patches,
    `(B, P + N, D)`; feature maps of CNNs and of hierarchical transformers are flattened row by row. With `detail`
    patches are `(B, N, D + 4 d)`: behind a patch's own `width` D are the `detail_width` d channels of its four cells.
    """

    def __init__(self, config: VisionConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.trunk = _trunk(config, pretrained)
        if not config.last_norm:
            self.trunk.norm = self.trunk.head = nn.Identity()  # timm has some norms in heads
        for module in self.trunk.modules():
            if config.norm_eps is not None and isinstance(module, nn.LayerNorm):
                module.eps = config.norm_eps
            if (index := module._buffers.get(_COMPUTED)) is not None:
                module.register_buffer(_COMPUTED, index, persistent=False)
        self.width: int = self.trunk.num_features
        self.detail_width = self._detail_width() if config.detail else 0

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.config.detail:
            return self._with_detail(pixels)
        return self._patches(self.trunk.forward_features(pixels), pixels)

    def _patches(self, features: Any, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches and their grid of what timm's model gives. Raises ConfigError where these are no patches."""
        if not isinstance(features, Tensor):
            raise ConfigError(f"{self.config.name} gives several maps, and not one of patches")
        if features.ndim == 3 and features.shape[2] == self.width:  # (B, prefix + N, D)
            prefix, grid = self._token_grid(features.shape[1], pixels)
            return features if self.config.prefix else features[:, prefix:], grid
        if features.ndim == 4 and self._channels_last(features):  # (B, h, w, D)
            return features.flatten(1, 2), (features.shape[1], features.shape[2])
        if features.ndim == 4 and features.shape[1] == self.width:  # (B, D, h, w)
            grid = (features.shape[2], features.shape[3])
            return features.flatten(2).transpose(1, 2), grid
        shape = " x ".join(map(str, features.shape[1:]))
        raise ConfigError(f"{self.config.name} gives {shape}, which are no {self.width} channels")

    def _with_detail(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        features, (fine,) = self.trunk.forward_intermediates(pixels, indices=[-2])
        patches, grid = self._patches(features, pixels)
        cells = F.pixel_unshuffle(fine, 2)  # (B, d * 4, h, w), from (B, d, 2 h, 2 w)
        return torch.cat([patches, cells.flatten(2).transpose(1, 2)], dim=2), grid

    def _detail_width(self) -> int:
        """Channels of the map of half the last stride. Raises ConfigError where the encoder has none."""
        levels = getattr(self.trunk, "feature_info", [])[-2:]
        strides = [level["reduction"] for level in levels]
        if len(levels) < 2 or strides[1] != 2 * strides[0]:
            raise ConfigError(f"{self.config.name} has no map of half its stride for vision.detail")
        return levels[0]["num_chs"]

    def _channels_last(self, features: Tensor) -> bool:
        return getattr(self.trunk, "output_fmt", None) == "NHWC" or (
            features.shape[-1] == self.width and features.shape[1] != self.width
        )

    def _token_grid(self, tokens: int, pixels: Tensor) -> tuple[int, tuple[int, int]]:
        """How many prefix tokens a sequence begins with, and the rows and columns of the patches behind them."""
        height, width = pixels.shape[-2:]
        levels = getattr(self.trunk, "feature_info", None)  # an older timm's CoaT has none
        strides = [levels[-1]["reduction"]] if levels else STRIDES
        declared = getattr(self.trunk, "num_prefix_tokens", 0)
        for prefix in (declared, declared or 1):  # VOLO and CoaT do not declare their class token
            for stride in strides:
                padded = (-(-height // stride), -(-width // stride))
                for grid in (padded, (height // stride, width // stride)):
                    if tokens == prefix + grid[0] * grid[1]:
                        return prefix, grid
        raise ConfigError(
            f"{self.config.name} gives {tokens} tokens for {height} x {width} pixels, which are no grid of "
            f"{padded[0]} x {padded[1]} patches"
        )


def _trunk(config: VisionConfig, pretrained: bool) -> Any:
    if config.name == PIX2STRUCT:  # the one that timm has not
        try:
            return PatchTransformer(**config.options)
        except TypeError as error:
            raise ConfigError(f"{config.name}: {_reason(error)}") from None
    options = {"pretrained": pretrained, "num_classes": 0, **config.options}
    try:
        try:
            return timm.create_model(config.name, img_size=config.preprocess.size, **options)
        except TypeError:  # models that take any size have no img_size
            return timm.create_model(config.name, **options)
    except Exception as error:  # constructors and downloads raise what they like
        raise ConfigError(f"timm cannot make {config.name!r}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def default_preprocess(name: str, size: tuple[int, int] | None = None) -> Preprocess:
    """The preprocessing that timm's model was trained with, the whole image squashed to `size` `(height, width)`."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise ConfigError(f"timm has no model {name!r}")
    return Preprocess(
        size=size or cast("tuple[int, int]", config.input_size[1:]),
        mean=cast("tuple[float, float, float]", config.mean),
        std=cast("tuple[float, float, float]", config.std),
        interpolation=cast("Interpolation", config.interpolation),
    )


def probe_pixels(encoder: VisionEncoder, part: int = 1) -> Tensor:
    """Random pixels `(1, 3, H, W)` in the encoder's input size, or a part of its sides, the same each time."""
    generator = torch.Generator().manual_seed(0)
    height, width = encoder.config.preprocess.size
    return torch.randn(1, 3, height // part, width // part, generator=generator)


@torch.no_grad()
def probe(encoder: VisionEncoder) -> Tensor:
    """The patches `(1, N, D)` of `probe_pixels`. Raises ConfigError where the encoder cannot make them."""
    try:
        return encoder.eval()(probe_pixels(encoder))[0]
    except ConfigError:
        raise
    except Exception as error:  # models raise what they like at a size that is not theirs
        height, width = encoder.config.preprocess.size
        raise ConfigError(
            f"{encoder.config.name} takes no images of {height} x {width}: {_reason(error)}"
        ) from None


@torch.no_grad()
def agree(encoder: VisionEncoder, other: VisionEncoder, part: float) -> bool:
    """Whether the patches of two encoders for the same random pixels differ by less than a part of their size.

    It is the size of all patches, as single numbers can be near zero. Pixels are few, as it takes time, where the
    encoder takes few. Raises ConfigError where one of them cannot make patches.
    """
    try:
        pixels = probe_pixels(encoder, part=4)
        expected, actual = encoder(pixels)[0], other(pixels)[0]
    except Exception:  # most transformers are of one size, and each says so in its own way
        expected, actual = probe(encoder), probe(other)
    return bool((actual - expected).norm() < part * expected.norm())


@torch.no_grad()
def folded(encoder: VisionEncoder) -> VisionEncoder:
    """A copy for inference: each batch norm folded into the convolution before it, channels last in memory.

    The copy is checked against the original on random pixels; an encoder whose modules do not run in the order of
    their definition is returned as it was, and so is one whose only convolution makes the patches.
    """
    encoder.eval()
    if sum(isinstance(module, nn.Conv2d) for module in encoder.modules()) < 2:
        return encoder
    copy = deepcopy(encoder)
    for module in copy.modules():
        children = list(module.named_children())
        for (_, convolution), (name, norm) in pairwise(children):
            if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.running_mean is None or norm.running_var is None:
                continue
            if norm.num_features != convolution.out_channels:  # it stands before it, not behind
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
    for weight in copy.parameters():
        # Others have no such layout, as those of lambda networks' 3-D convolutions.
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return copy if agree(encoder, copy, 1e-5) else encoder
