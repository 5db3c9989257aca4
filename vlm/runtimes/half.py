"""Whether a model runs faster here in bfloat16 than in float32."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import torch

from vlm.runtimes.packed import PackedLinear, can_pack

# The instructions that multiply in bfloat16, as Linux names them, and as people do.
_INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
_WORTH = 1.2  # times as fast, for the roundings that it costs


@functools.cache
def processor() -> tuple[str, tuple[str, ...]]:
    """The processor's name, and which instructions it has for bfloat16; nothing but on Linux."""
    info = Path("/proc/cpuinfo")
    name = ""
    found: tuple[str, ...] = ()
    for line in info.read_text().splitlines() if info.exists() else []:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            name = value
        elif key == "flags":
            flags = value.split()
            found = tuple(said for flag, said in _INSTRUCTIONS.items() if flag in flags)
            break
    return name, found


def can_halve() -> bool:
    """Whether packed layers of bfloat16 run here, fast or not."""
    return can_pack() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
@torch.inference_mode()
def half_speed() -> float:
    """How many times as fast as in float32 packed layers run in bfloat16, by a probe of a tenth of a second."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2048, 768, generator=generator)
    x = torch.randn(64, 768, generator=generator)
    layers = [PackedLinear(weight, None, dtype=d) for d in (torch.float32, torch.bfloat16)]
    seconds: list[list[float]] = [[], []]
    for _ in range(10):  # in turns, so that other work on the machine meets both
        for layer, times in zip(layers, seconds):
            start = time.perf_counter()
            layer(x)
            times.append(time.perf_counter() - start)
    whole, half = map(min, seconds)
    return whole / half


def is_half_faster() -> tuple[bool, str]:
    """Whether "auto" takes bfloat16 here, and why, in words."""
    name, instructions = processor()
    name = name or "this processor"
    if not instructions or not can_halve():
        return False, f"{name} has no instructions for bf16 that are used here"
    speed = half_speed()
    has = f"{name} has {' and '.join(instructions)}"
    if speed < _WORTH:
        return False, f"{has}, but layers run {speed:.1f} times as fast in bf16"
    return True, f"{has}, and layers run {speed:.1f} times as fast in bf16"
