"""Parts of timm's encoders for inference: what they compute, with less to read and write between their layers."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.lean_imports import lean_timm
from vlm.runtimes.half_attention import (
    Attend,
    HalfAttention,
    InHeads,
    across_channels,
    across_channels_of_keys,
)
from vlm.runtimes.layers import Int8Linear, PackedLinear
from vlm.runtimes.plan import Plan
from vlm.runtimes.twin import twin

with lean_timm():
    from timm.layers import Mlp
    from timm.models.davit import (
        ChannelAttention,
        ChannelAttentionV2,
        ChannelBlock,
        ConvPosEnc,
        SpatialBlock,
        WindowAttention,
    )
    from timm.models.vision_transformer import Attention

# An MLP goes over some rows at a time, with so many numbers between its layers, where its weights, which it then reads
# more than once, are so small that the cache has room for them, too.
_HIDDEN = {torch.float32: 1 << 20, torch.bfloat16: 1 << 22}
_SMALL = 6_000_000  # bytes


class ChunkedMlp(Mlp):
    """timm's `Mlp` over some rows at a time, so that what is between its layers stays in the processor's cache.

    That is in `dtype`: layers of bfloat16 would round it to that in any case.
    """

    def __init__(self, mlp: Mlp, rows: int, width: int, dtype: torch.dtype = torch.float32) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(twin(mlp).__dict__)
        self.rows, self.width, self.dtype = rows, width, dtype  # the width of what goes out

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= self.rows:
            return super().forward(x.to(self.dtype)).to(x.dtype)
        y = x.new_empty(len(rows), self.width)
        for part, out in zip(rows.split(self.rows), y.split(self.rows), strict=True):
            out.copy_(super().forward(part.to(self.dtype)))
        return y.view(*x.shape[:-1], self.width)


class DaVitBlock(nn.Module):
    """A block of DaViT (Ding et al. 2022, arXiv 2204.03645) that adds in place what its attention and MLP give.

    Its norm before a chunked MLP, and the addition behind it, are over the MLP's rows. There are no gradients.
    """

    def __init__(self, block: SpatialBlock | ChannelBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """A map `(B, C, H, W)`, and another."""
        block = self.block
        rows = block.cpe1(x).permute(0, 2, 3, 1).contiguous()  # (B, H, W, C), new
        if isinstance(block, SpatialBlock):
            _add_windows(block, rows)
        else:
            flat = rows.flatten(1, 2)
            flat += block.attn(block.norm1(flat))
        rows = block.cpe2(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
        if block.mlp is not None:
            flat = rows.flatten(0, 2)
            for part in flat.split(getattr(block.mlp, "rows", len(flat))):
                part += block.mlp(block.norm2(part))
        return rows.permute(0, 3, 1, 2)


def _add_windows(block: SpatialBlock, x: Tensor) -> None:
    """Add to a map `(B, H, W, C)` what its windows attend to, each in itself."""
    (height, width), (h, w) = x.shape[1:3], block.window_size
    padded = F.pad(block.norm1(x), (0, 0, 0, -width % w, 0, -height % h))
    windows = padded.unflatten(2, (-1, w)).unflatten(1, (-1, h)).transpose(2, 3)
    attended = block.attn(windows.reshape(-1, h * w, x.shape[-1]))
    attended = attended.view(windows.shape).transpose(2, 3)  # (B, H / h, h, W / w, w, C)
    if padded.shape == x.shape:
        x.view(attended.shape).add_(attended)
    else:
        x += attended.reshape(padded.shape)[:, :height, :width]


def rebuilt(module: nn.Module, packed: Any, plan: Plan) -> nn.Module:
    """A module of timm's, which `packed` was made from, as one of these, or `packed` as it is.

    Of a subclass nothing is known: it may do more.
    """
    kind = type(module)
    if kind in (SpatialBlock, ChannelBlock):
        return DaVitBlock(packed)
    if kind is Mlp:
        return _rebuilt_mlp(cast("Mlp", module), packed)
    attend = _attend(module, plan.attend) if plan.narrow == torch.bfloat16 else None
    return packed if attend is None else HalfAttention(packed.qkv, packed.proj, attend)


def _rebuilt_mlp(mlp: Mlp, packed: Any) -> nn.Module:
    """Over some rows at a time if its layers have few weights, and in bfloat16 between two layers of it alone."""
    first, last = mlp.fc1, mlp.fc2
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        return packed  # convolutions, whose rows are neighbours
    layers: list[PackedLinear | Int8Linear] = [packed.fc1, packed.fc2]
    alone = all(type(module) is nn.Identity for module in (packed.act, packed.norm))
    half = alone and all(layer.dtype == torch.bfloat16 for layer in layers)
    dtype = torch.bfloat16 if half else torch.float32
    few = sum(layer.weight_bytes for layer in layers) <= _SMALL
    if not few and not half:
        return packed
    rows = _HIDDEN[dtype] // first.out_features if few else sys.maxsize
    return ChunkedMlp(packed, rows, last.out_features, dtype)


def _attend(module: nn.Module, in_heads: InHeads) -> Attend | None:
    """How an attention of timm's attends, None for what is none, or does more between its layers."""
    if type(module) is ChannelAttention:
        return partial(across_channels_of_keys, heads=module.num_heads)
    if type(module) is ChannelAttentionV2:
        return partial(across_channels, heads=module.groups, by_places=module.dynamic_scale)
    if type(module) not in (Attention, WindowAttention):
        return None
    more = (getattr(module, name, None) for name in ("q_norm", "k_norm", "norm", "gate"))
    if any(part is not None and type(part) is not nn.Identity for part in more):
        return None
    return partial(in_heads, heads=cast("int", module.num_heads))


def with_residual(module: nn.Module) -> nn.Conv2d | None:
    """DaViT's `x + convolution(x)` as one convolution, None for what is none: the middle of a kernel grows by one."""
    if type(module) is not ConvPosEnc or type(module.act) is not nn.Identity:
        return None
    convolution = module.proj
    same, kernels = twin(convolution), convolution.weight.detach().clone()  # (C, 1, k, k)
    kernels[:, 0, kernels.shape[2] // 2, kernels.shape[3] // 2] += 1
    same.weight = nn.Parameter(kernels, False)
    return same
