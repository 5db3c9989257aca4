"""timm and Gradio without what they bring along and nothing here needs at the start.

Importing timm imports torch's compiler twice over, a quarter of the time of `vlm caption` and 140 MB: torchvision asks
`torch._dynamo.utils` for one function that it may never call, and timm marks a few functions that are not to be
compiled. Importing Gradio has it write stubs of its components for editors into its own folder, half of the time it
takes, and import `mcp`, where that is installed, a sixth. Nothing is lost: who compiles a model has the compiler and
all marks, and who imports `mcp` has that.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

_UTILS = "torch._dynamo.utils"


class _CompilerUtils(ModuleType):
    """Stands for `torch._dynamo.utils` until somebody takes more from it than the one function torchvision imports."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        return _real_utils().is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        return getattr(_real_utils(), name)


def _real_utils() -> Any:
    _take_away_stand_in()
    return import_module(_UTILS)


def _take_away_stand_in() -> None:
    if isinstance(sys.modules.get(_UTILS), _CompilerUtils):
        del sys.modules[_UTILS]


@contextmanager
def lean_timm() -> Iterator[None]:
    """For the first import of timm: `torch._dynamo` is imported later, by what uses it."""
    if _UTILS in sys.modules:
        yield
        return
    sys.modules[_UTILS] = _CompilerUtils(_UTILS)
    try:
        with _in_place_of(torch.compiler, "disable", _later(torch.compiler.disable)):
            yield
    finally:
        _take_away_stand_in()


def _later(disable: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compiler.disable`, which imports the compiler, when the function it is given is first called."""

    def disable_later(
        fn: Callable[..., Any] | None = None, recursive: bool = True, **options: Any
    ) -> Any:
        if fn is None:
            return disable(fn, recursive, **options)
        disabled = cache(lambda: disable(fn, recursive, **options))

        @wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return disabled()(*args, **kwargs)

        call._torchdynamo_disable = True  # type: ignore[attr-defined]  # the mark that the compiler looks for
        return call

    return disable_later


@contextmanager
def lean_gradio() -> Iterator[None]:
    """For the first import of Gradio: it writes no stubs of components whose source file it cannot find.

    And it does without `mcp`, which is for servers of agents that it would start itself.
    """
    find = inspect.getfile

    def getfile(thing: Any) -> str:
        if inspect.isclass(thing) and thing.__module__.startswith("gradio."):
            raise OSError(f"no stubs of {thing}")
        return find(thing)

    absent = "mcp" not in sys.modules
    if absent:
        sys.modules["mcp"] = None  # type: ignore[assignment]  # an import of it fails, as where it is not installed
    try:
        with _in_place_of(inspect, "getfile", getfile):
            yield
    finally:
        if absent:
            del sys.modules["mcp"]


@contextmanager
def _in_place_of(module: ModuleType, name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, before)
