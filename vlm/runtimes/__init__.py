"""The same model, faster on the machine at hand.

A runtime wraps a model and leaves it as it was: `packed` and `compiled` take a `VisionLanguageModel` and give
something that a Captioner uses in its place, which is all that `Runtime` asks for. What a model computes is written
once, in `vlm.model`; each runtime is held to it by parity. Only the model itself has gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vlm.model.config import DecoderConfig, ModelConfig
from vlm.model.decoder import Cache, Decoded, Projected
from vlm.model.joint_reader import JointReader
from vlm.model.memory import Memory


@runtime_checkable
class TextDecoder(Protocol):
    """What a search, and an explanation, asks of a decoder; see `vlm.model.decoder.Decoder`."""

    @property
    def config(self) -> DecoderConfig: ...

    @property
    def device(self) -> torch.device: ...

    def project(self, memory: Memory) -> Projected: ...

    def __call__(
        self,
        ids: Tensor,
        projected: Projected,
        cache: Cache | None = None,
        valid: Tensor | None = None,
        explicit: bool = False,
    ) -> Decoded: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def inference(self) -> AbstractContextManager[Any]: ...


@runtime_checkable
class Runtime(Protocol):
    """What a Captioner asks of a model; see `vlm.model.model.VisionLanguageModel`."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def decoder(self) -> TextDecoder: ...

    @property
    def reader(self) -> TextDecoder | JointReader | None: ...

    @property
    def device(self) -> torch.device: ...

    def encode(self, pixels: Tensor) -> Memory: ...

    def remember(self, patches: Tensor, grid: tuple[int, int]) -> Memory: ...

    def project(self, memory: Memory) -> Projected: ...

    def read(self, projected: Projected, questions: Sequence[Sequence[int]]) -> Memory: ...
