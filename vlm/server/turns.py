"""The engine for coroutines: what they wait for is taken back where they are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from vlm.encoded_image import EncodedImage
from vlm.engine import Engine, Job
from vlm.images import load_image

T = TypeVar("T")


async def done(job: Job[T]) -> T:
    """A request's result."""
    return await asyncio.wrap_future(job.future)


async def in_turn(engine: Engine, owner: Hashable, function: Callable[[], T]) -> T:
    """What a function gives that uses the model, called in its turn."""
    return await done(engine.call(owner, function))


async def encoded(engine: Engine, owner: Hashable, data: bytes, max_pixels: int) -> EncodedImage:
    """An image file, encoded. Decoded in its turn, too, so that of many photos one is in memory in full."""
    captioner = engine.captioner

    def encode() -> EncodedImage:
        photo = captioner.read(data, max_pixels)
        # Those who draw on the whole photo decode it again: until then its file takes less room.
        return captioner.encode(replace(photo, whole=partial(load_image, data, max_pixels)))

    return await in_turn(engine, owner, encode)
