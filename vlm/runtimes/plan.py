"""What a model's layers multiply in, for each precision, on the processor at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vlm.options import Precision
from vlm.runtimes import probes
from vlm.runtimes.half_attention import InHeads, at_once, by_heads


@dataclass(frozen=True)
class Plan:
    """What layers multiply in, by where they are.

    `vision` is an encoder's; where it is 8 bits, its layers too narrow to gain are in `narrow`, and so are its
    convolutions and its attention everywhere. `slots` is that of layers over all of a memory: an adapter's, a joint
    reader's, and those of its keys and values; `words` that of layers over a word or a few, and `head` of that which
    gives the logits. `attend` is how heads attend where `narrow` is bfloat16.
    """

    vision: torch.dtype = torch.float32
    narrow: torch.dtype = torch.float32
    slots: torch.dtype = torch.float32
    words: torch.dtype = torch.float32
    head: torch.dtype = torch.float32
    attend: InHeads = at_once


FLOAT32 = Plan()


def planned(precision: Precision) -> Plan:
    """The plan for a precision that this processor has; "auto" is to be decided before."""
    float16 = Plan(slots=torch.float16, words=torch.float16, head=torch.float16)
    if precision == Precision.fp16:
        return float16
    if precision == Precision.int8:
        plan = replace(float16, vision=torch.int8, slots=torch.int8)
        return _in_half(plan) if probes.half_is_faster() else plan
    if precision == Precision.bf16:
        return _in_half(Plan(vision=torch.bfloat16, slots=torch.bfloat16))
    return FLOAT32


def _in_half(plan: Plan) -> Plan:
    """The plan with what is narrow in bfloat16, and words in that or in float16, whichever is faster.

    Logits of bfloat16 would be the same for words that are nearly as likely.
    """
    half, float16 = torch.bfloat16, torch.float16
    attend = at_once if probes.fused_attention_speed() > 1 else by_heads
    plan = replace(plan, narrow=half, words=half, attend=attend)
    if not probes.can_take_float16():
        return plan
    words = float16 if probes.float16_speed(beside=half) >= probes.WORTH else half
    return replace(plan, words=words, head=float16)
