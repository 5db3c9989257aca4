"""In which precisions a model runs on this processor, and whether it runs faster with 16 bits than in float32."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch

from vlm.options import Precision
from vlm.runtimes.half_attention import at_once, by_heads
from vlm.runtimes.layers import Float16Linear, Int8Linear, PackedLinear, can_pack

# The instructions that multiply in bfloat16, as Linux names them, and as people do.
_INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
WORTH = 1.2  # times as fast, for the roundings that it costs, and as probes differ by less from run to run


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
def can_take_float16() -> bool:
    """Whether layers with weights of float16 run here, and give what they ought to."""
    if not can_pack():
        return False
    weight, x = torch.eye(16), torch.arange(16.0)[None]
    try:
        return torch.equal(Float16Linear(weight, None)(x), x)
    except (RuntimeError, AttributeError):  # this torch was built without them, or has them no more
        return False


@functools.cache
def can_take_int8() -> bool:
    """Whether layers of 8 bits run here, beside those of float16 for words, and sum in 32.

    Without VNNI two products are summed in 16, which is too few.
    """
    if not can_take_float16():
        return False
    ones = torch.ones(64, 64)
    try:
        return torch.allclose(Int8Linear(ones, None)(ones), ones * 64)
    except (RuntimeError, AttributeError):  # as above
        return False


def half_is_faster() -> bool:
    """Whether the processor has instructions for bfloat16, and enough is gained by them for what rounding costs."""
    return bool(processor()[1]) and can_halve() and half_speed() >= WORTH


@functools.cache
def half_speed() -> float:
    """How many times as fast as in float32 packed layers run in bfloat16, by a probe of a tenth of a second."""
    weight, x = torch.ones(2048, 768), torch.ones(64, 768)  # by chance would use up a seed
    whole, half = (
        PackedLinear(weight, None, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    return _ratio([partial(whole, x)], [partial(half, x)])


@functools.cache
def float16_speed(beside: torch.dtype = torch.float32) -> float:
    """How many times as fast as packed layers those of float16 are on a few rows, by a probe of a fifth of a second.

    Their weights are more than a cache holds, as a decoder's are.
    """
    weight, x = torch.ones(2048, 768), torch.ones(3, 768)
    count = range(12)
    packed = [partial(PackedLinear(weight, None, dtype=beside), x) for _ in count]
    return _ratio(packed, [partial(Float16Linear(weight, None), x) for _ in count])


@functools.cache
def fused_attention_speed() -> float:
    """How many times as fast as by a few heads fused attention runs in bfloat16, by a probe of a tenth of a second."""
    x = torch.ones(1, 577, 768, dtype=torch.bfloat16)
    return _ratio([partial(by_heads, x, x, x, 12)], [partial(at_once, x, x, x, 12)])


@torch.inference_mode()
def _ratio(one: Sequence[Callable[[], object]], other: Sequence[Callable[[], object]]) -> float:
    """How many times as fast others are, at their best, run in turns, as other work may meet both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _, (calls, times) in product(range(10), zip((one, other), seconds)):
        start = time.perf_counter()
        for call in calls:
            call()
        times.append(time.perf_counter() - start)
    return min(seconds[0]) / min(seconds[1])


def fastest() -> tuple[Precision, str]:
    """What "auto" takes here, and why, in words."""
    name, instructions = processor()
    name = name or "this processor"
    if instructions and can_halve():
        speed = half_speed()
        has = f"{name} has {' and '.join(instructions)}"
        if speed >= WORTH:
            return Precision.bf16, f"{has}, and layers run {speed:.1f} times as fast in bf16"
        why = f"{has}, but layers run {speed:.1f} times as fast in bf16"
    else:
        why = f"{name} has no instructions for bf16 that are used here"
    if not can_take_float16():
        return Precision.float32, why
    speed = float16_speed()
    reads = f"weights of 16 bits are read {speed:.1f} times as fast"
    if speed < WORTH:
        return Precision.float32, f"{why}, and {reads}"
    return Precision.fp16, f"{why}; {reads}"
