"""Checkpoints to a facade: which folder, on what device, run by what."""

from __future__ import annotations

from pathlib import Path

import torch

from vlm.captioner import Captioner
from vlm.errors import UserError
from vlm.model.vision import folded
from vlm.runtimes.openvino import BackendError, compiled
from vlm.runtimes.packed import can_pack, packed
from vlm.weights.conversions import as_ours
from vlm.weights.hub import find
from vlm.weights.store import load_checkpoint


class DeviceError(UserError):
    """A device that is not to be had here; the message says which are."""


def load(
    name: str | Path | None = None,
    device: str = "auto",
    openvino: bool = False,
    int8: bool = False,
    gradients: bool = False,
) -> Captioner:
    """Load a checkpoint: the bundled one, a bundled name, a folder, a hub id, or an alias such as "florence-2".

    One of another library, e.g. "Salesforce/blip-image-captioning-base", is converted at its first use, and the result
    is kept; see `vlm.weights.conversions`. `device` is "cpu", "cuda", "cuda:1", "mps" or "auto", which takes CUDA where
    it is and nothing asks for OpenVINO, else the CPU. On x86 processors the weights are laid out for inference;
    see `vlm.runtimes.packed`. With `openvino` OpenVINO runs the model, and with `int8` so, over weights in 8 bits; see
    `vlm.runtimes.openvino`. Neither has gradients: with `gradients` the model is plain torch. Raises
    `vlm.weights.CheckpointError` when there is no such checkpoint or it is damaged, DeviceError where the device is not
    to be had, and `vlm.runtimes.openvino.BackendError` where OpenVINO is not, or not on that device or with gradients.
    """
    compile_it = openvino or int8
    if compile_it and device not in ("auto", "cpu"):
        raise BackendError(f"OpenVINO runs models on the CPU here, not on {device}")
    if compile_it and gradients:
        raise BackendError("OpenVINO has no gradients; load the model without it for those")
    place = find_device("cpu" if compile_it else device)
    with as_ours(find(name)) as folder:
        model, tokenizer = load_checkpoint(folder)
    if not gradients:
        model.vision = folded(model.vision)
    if compile_it:
        model = compiled(model, int8)
    elif place.type == "cpu" and can_pack() and not gradients:
        model = packed(model)
    return Captioner(model.to(place), tokenizer)


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
