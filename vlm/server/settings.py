"""What a server allows: sizes, times, how many at once, and where images may be fetched from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vlm.images.decode import MAX_PIXELS
from vlm.typed import Count, Limit, Positive, check_fields

MCP_PATH = "/mcp"

_PIXELS = Limit(f"from 1 to {MAX_PIXELS:,}", lambda value: 1 <= value <= MAX_PIXELS)


@dataclass(frozen=True)
class Settings:
    """The limits of one server.

    `model` is the name that programs call the model by. A request's body has at most `max_body` bytes, and so has an
    image that is fetched; an image has at most `max_pixels`. A request is answered within `seconds` or not at all.
    `max_requests` are worked on or wait; further ones are told to come again. `media_domains` are the hosts that images
    may be fetched from, "*.example.org" standing for all below example.org; there are none by default.
    """

    model: str
    max_body: Count = 32_000_000
    max_pixels: Annotated[int, _PIXELS] = 50_000_000
    seconds: Positive = 60.0
    max_requests: Count = 64
    media_domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
