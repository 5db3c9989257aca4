"""What the parts of the benchmark share: models tiny or in their published sizes, photos, and texts of one length."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

import vlm
from benchmarks.roofline import Machine
from benchmarks.timing import Ids

PHOTOS = sorted((Path(__file__).resolve().parents[1] / "assets" / "examples").glob("*.jpg"))
TOKENS = 20  # of a caption
ANSWER_TOKENS = 5


@dataclass(frozen=True)
class Setting:
    """Tiny models or published sizes, turns of each measure, the machine's peaks, and an empty folder for weights.

    With `shared` other work is on the machine, and whole captions are measured in processor time.
    """

    tiny: bool
    repeats: int
    machine: Machine
    folder: Path
    shared: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        return time.process_time if self.shared else time.perf_counter


def pictures(count: int) -> list[Image.Image]:
    """The example photos, then mirrored, then upside down: all of them different."""
    photos = [Image.open(path).convert("RGB") for path in PHOTOS]
    photos += [ImageOps.mirror(photo) for photo in photos]
    photos += [ImageOps.flip(photo) for photo in photos]
    return photos[:count]


def fixed(beams: int, tokens: int = TOKENS) -> dict[str, int]:
    """Options for texts of so many tokens."""
    return {"beams": beams, "min_tokens": tokens, "max_tokens": tokens}


def ids_of(answers: list[vlm.Answer]) -> Ids:
    return [list(answer.ids) for answer in answers]


def search_name(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"
