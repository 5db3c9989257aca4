"""Checkpoints to a facade: which folder, on what device, run by what."""

from __future__ import annotations

from pathlib import Path

import torch

from vlm.captioner import Captioner
from vlm.errors import UserError
from vlm.model.vision import folded
from vlm.options import Precision
from vlm.runtimes.layers import can_pack
from vlm.runtimes.openvino import BackendError, compiled
from vlm.runtimes.packed import packed
from vlm.runtimes.plan import planned
from vlm.runtimes.probes import can_halve, can_take_float16, can_take_int8, fastest
from vlm.weights.conversions import as_ours
from vlm.weights.hub import find
from vlm.weights.store import load_checkpoint

# What torch's layers are packed in, where the processor has it. Of int8 OpenVINO has one of its own.
_PACKED = (Precision.bf16, Precision.fp16, Precision.int8)


class DeviceError(UserError):
    """A device that is not to be had here; the message says which are."""


def load(
    name: str | Path | None = None,
    device: str = "auto",
    openvino: bool = False,
    precision: str = Precision.float32,
    gradients: bool = False,
) -> Captioner:
    """Load a checkpoint: the bundled one, a bundled name, a folder, a hub id, or an alias such as "florence-2".

    One of another library, e.g. "Salesforce/blip-image-captioning-base", is converted at its first use, and the result
    is kept; see `vlm.weights.conversions`. `device` is "cpu", "cuda", "cuda:1", "mps" or "auto", which takes CUDA where
    it is and nothing asks for OpenVINO or another precision, else the CPU. On x86 processors the weights are laid out
    for inference; see `vlm.runtimes.packed`. With `openvino` OpenVINO runs the model; see `vlm.runtimes.openvino`.

    `precision` is "float32", "bf16", matrix products of bfloat16 on an x86 CPU, "fp16", products in float32 of weights
    kept in 16 bits there, "int8", that and an encoder of 8-bit products where an x86 CPU has VNNI, and with `openvino`
    weights of 8 bits on any, or "auto": bf16 or fp16 where `find_precision` finds them faster. Words may differ a
    little, but in float32 they are the same everywhere, and on all but float32 there are no gradients: with
    `gradients` the model is plain torch.

    Raises `vlm.weights.CheckpointError` when there is no such checkpoint or it is damaged, DeviceError where the device
    is not to be had, and `vlm.runtimes.openvino.BackendError` where the precision or OpenVINO is not, or not on that
    device or with gradients.
    """
    chosen, _ = find_precision(precision, device, openvino, gradients)
    if openvino and device not in ("auto", "cpu"):
        raise BackendError(f"OpenVINO runs models on the CPU here, not on {device}")
    if openvino and gradients:
        raise BackendError("OpenVINO has no gradients; load the model without it for those")
    place = find_device("cpu" if openvino or chosen in _PACKED else device)
    with as_ours(find(name)) as folder:
        model, tokenizer = load_checkpoint(folder)
    if not gradients:
        model.vision = folded(model.vision)
    if openvino:
        model = compiled(model, chosen == Precision.int8)
    elif place.type == "cpu" and can_pack() and not gradients:
        model = packed(model, planned(chosen), keep=False)
    return Captioner(model.to(place), tokenizer)


def find_precision(
    precision: str, device: str = "auto", openvino: bool = False, gradients: bool = False
) -> tuple[Precision, str]:
    """What a model is to compute in, "auto" being decided by a probe of this machine, and why, in words.

    Raises BackendError for what there is not, or not here.
    """
    names = ", ".join(Precision)
    if precision not in list(Precision):
        raise BackendError(f"there is no precision {precision!r}: give one of {names}")
    wanted = Precision(precision)
    other = "OpenVINO" if openvino else "a model with gradients" if gradients else None
    if wanted in _PACKED and not (openvino and wanted == Precision.int8):
        if other is None and device not in ("auto", "cpu"):
            other = f"a model on {device}"
        if other is not None:
            raise BackendError(
                f"{wanted} is for models on x86 CPUs here; {other} computes in float32"
            )
        if not _is_here(wanted):
            instead = "OpenVINO, too, or float32" if wanted == Precision.int8 else "float32"
            raise BackendError(f"this processor, or this torch, has no {wanted}; give {instead}")
    if wanted != Precision.auto:
        return wanted, "as asked for"
    if other is None and find_device(device).type != "cpu":
        other = f"a model on {find_device(device)}"
    if other is not None:
        return Precision.float32, f"{other} computes in it"
    return fastest()


def _is_here(precision: Precision) -> bool:
    if precision == Precision.int8:
        return can_take_int8()
    return can_halve() if precision == Precision.bf16 else can_take_float16()


def find_device(name: str) -> torch.device:
    """The device of a name such as "auto", "cpu", "cuda:1" or "mps". Raises DeviceError where there is none."""
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name == "auto":
        return torch.device("cuda:0" if "cuda:0" in there else "cpu")
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in there:
        raise DeviceError(
            f"there is no device {name!r} here: give auto or one of {', '.join(there)}"
        )
    return torch.device(wanted)
