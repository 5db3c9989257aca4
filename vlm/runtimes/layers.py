"""Layers for inference on x86 processors: weights as oneDNN and FBGEMM read them, activations joined to layers."""

from __future__ import annotations

import platform
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from vlm.lean_imports import lean_timm
from vlm.runtimes.twin import twin

with lean_timm():
    from timm.layers.activations import GELU, GELUTanh

# What oneDNN computes while a layer's output is still in registers, by its name for it.
JOINED: dict[type[nn.Module], str] = {
    nn.GELU: "gelu",
    GELU: "gelu",
    GELUTanh: "gelu",
    nn.ReLU: "relu",
}
JOINED_TO_CONVOLUTIONS = {
    **JOINED,
    nn.ReLU6: "hardtanh",
    nn.SiLU: "swish",
    nn.Hardswish: "hardswish",
}

# Of weights that come from memory, and not from a cache, oneDNN reads a tenth more a second when there are this many
# rows to multiply than when there is one. So one is multiplied as often.
_FASTEST, _LARGE = 5, 2_000_000  # bytes

_STEPS = 127  # of 8 bits, to each side of zero
_SMALLEST = 1e-30  # what stands for the largest of numbers that are all zero


def can_pack() -> bool:
    """Whether this machine's oneDNN has the layouts."""
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def _algorithm(activation: nn.Module | None) -> str:
    """Which of oneDNN's ways to compute an activation is meant, where it has more than one."""
    if isinstance(activation, GELU | GELUTanh):  # timm's own, which have no attribute for it
        return "tanh" if isinstance(activation, GELUTanh) else "none"
    return getattr(activation, "approximate", "")


class PackedLinear(nn.Module):
    """`nn.Linear`, and an activation behind it, over weights in oneDNN's own layout.

    At a few rows it reads the weights at the memory's full speed, where the plain layer reaches a third of it:
    several beams cost as much as one. There are no gradients. `torch.compile` with freezing makes the same calls.
    With a `dtype` of bfloat16 weights and products are in it, and sums in float32; what comes out is of the type that
    came in.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype))
        self.weight_bytes = weight.numel() * dtype.itemsize
        self.dtype = dtype
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), False)
        self.activation = "none" if activation is None else JOINED[type(activation)]
        self.algorithm = _algorithm(activation)

    def forward(self, x: Tensor) -> Tensor:
        alone = self.weight_bytes > _LARGE and x.numel() == x.shape[-1]
        if alone:
            x = x.expand(_FASTEST, *x.shape[1:])
        y = torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.weight, self.bias, self.activation, [], self.algorithm
        ).to(x.dtype)
        return y[:1] if alone else y

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return copy(self)  # the layout has no copy, and nothing ever changes it


class FusedConvolution(nn.Conv2d):
    """`nn.Conv2d`, and an activation behind it, by oneDNN: torch itself takes a slower way at 1 x 1 and one thread.

    There are no gradients. With a `dtype` of bfloat16 it is as in `PackedLinear`.
    """

    def __init__(
        self,
        layer: nn.Conv2d,
        activation: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(twin(layer).__dict__)  # encoders ask a layer for its stride and more
        for name, parameter in self._parameters.items():
            if parameter is not None:
                self._parameters[name] = nn.Parameter(parameter.detach().to(dtype), False)
        self.activation = "none" if activation is None else JOINED_TO_CONVOLUTIONS[type(activation)]
        self.range = (
            [activation.min_val, activation.max_val] if isinstance(activation, nn.ReLU6) else []
        )
        self.algorithm = _algorithm(activation)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1 and x.stride(1) == 1:
            # A map made of patches is in oneDNN's layout, channels last, but for the stride from image to image. Of
            # one image that has no meaning, and unless it is set right all of the map is copied.
            x = x[0].permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        return torch.ops.mkldnn._convolution_pointwise(
            x.to(self.weight.dtype),
            self.weight,
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            self.activation,
            self.range,
            self.algorithm,
        ).to(x.dtype)


class Float16Linear(nn.Module):
    """`nn.Linear` over weights that are kept in float16 and multiplied, and summed, in float32, by FBGEMM.

    A few rows take half the time, since half as much is read; many take as long as in float32. There are no gradients.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        held = None if bias is None else bias.detach().float()
        self.weight = torch.ops.quantized.linear_prepack_fp16(
            weight.detach().float().contiguous(), held
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.weight)

    def __deepcopy__(self, memo: dict[int, Any]) -> Float16Linear:
        return copy(self)  # as `PackedLinear`


class Int8Linear(nn.Module):
    """`nn.Linear` over whole numbers of 8 bits, by oneDNN, which sums them in 32; for many rows.

    Weights have a scale for each output, and what comes in has one for each row ("vector-wise" quantisation, Dettmers
    et al. 2022, arXiv 2208.07339), so that a row gives the same in every batch. There are no gradients.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        whole, self.scale = quantise(weight.detach().float())
        self.weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self.dtype = torch.float32  # of what comes in, and goes out
        self.weight_bytes = whole.nbytes
        self.zero = torch.zeros(len(whole), dtype=torch.long)
        self.middle = torch.full((whole.shape[1],), _STEPS + 1.5)
        held = torch.zeros(len(whole)) if bias is None else bias.detach().float()
        self.bias = nn.Parameter(held, False)

    def forward(self, x: Tensor) -> Tensor:
        largest = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))
        largest.clamp_(min=_SMALLEST)
        # oneDNN wants them from 0 to 255, with 128 for zero. By way of 16 bits it takes half the time, as torch has no
        # vector instructions from float32 to bytes without a sign.
        whole = torch.addcmul(self.middle, x, _STEPS / largest).to(torch.int16).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            whole, 1 / _STEPS, _STEPS + 1, self.weight, self.scale, self.zero,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return torch.addcmul(self.bias, y, largest, out=y)

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Linear:
        return copy(self)  # as `PackedLinear`


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(N, D)` as int8, and the scale of each, `(N,)`: the nearest of 255 steps to each side of zero."""
    scale = weight.abs().amax(dim=1).clamp(min=_SMALLEST) / _STEPS
    return (weight / scale[:, None]).round().to(torch.int8), scale
