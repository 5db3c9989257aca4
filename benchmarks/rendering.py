"""What drawing costs: overlays of one photo in each style, with labels and legends."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from vlm.explain.maps import WordMap
from vlm.explain.overlay import overlay
from vlm.explain.paint import STYLES, Style
from vlm.images import Preprocess

app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class Cost:
    """Milliseconds by the clock, and of the processor, which others' work lengthens less."""

    clock: float
    processor: float


@app.command()
def rendering(
    count: Annotated[int, typer.Option(min=1, help="Overlays of one photo.")] = 15,
    repeats: Annotated[int, typer.Option(min=1, help="Turns, of which the best counts.")] = 7,
) -> None:
    """Print the best time of each style."""
    print(f"{count} overlays at 1024 x 768")
    for style in STYLES:
        costs = [milliseconds(style, count) for _ in range(repeats)]
        clock, processor = min(c.clock for c in costs), min(c.processor for c in costs)
        print(f"{style:8} {clock:6.0f} ms, {processor:.0f} ms of the processor")


def milliseconds(style: Style, count: int) -> Cost:
    """What so many overlays of a photo of 1024 x 768 pixels cost, from maps of a 16 x 16 grid."""
    noise = np.random.default_rng(0)
    photo = Image.fromarray(noise.integers(0, 256, (768, 1024, 3), dtype=np.uint8))
    frame = Preprocess((256, 256), (0.5,) * 3, (0.5,) * 3).frame(1024, 768)
    shares = torch.from_numpy(noise.dirichlet(np.full(256, 0.3), count)).unflatten(1, (16, 16))
    maps = [WordMap("word", "caption", weights) for weights in shares]
    clock, processor = time.perf_counter(), time.process_time()
    for word in maps:
        overlay(photo, frame, word, style=style)
    return Cost(1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor))


if __name__ == "__main__":
    app()
