"""What the tests of the trainer train: drawn photos with captions beside them, and a recipe of a second or two."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

from training.recipe.recipe import Recipe, RecipeError
from vlm.typed import build

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square")


def draw_photos(folder: Path, count: int = 40) -> Path:
    """A folder of pictures of one coloured shape, each with two captions in a text file of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for number in range(count):
        colour, shape = generator.choice(COLOURS), generator.choice(SHAPES)
        left, top = generator.randrange(10, 50), generator.randrange(10, 50)
        picture = Image.new("RGB", (96, 96), "white")
        pen = ImageDraw.Draw(picture)
        draw = pen.ellipse if shape == "circle" else pen.rectangle
        draw((left, top, left + 36, top + 36), fill=colour)
        picture.save(folder / f"{number:03d}.png")
        captions = f"a {colour} {shape}\nthis is a picture of a {colour} {shape}.\n"
        (folder / f"{number:03d}.txt").write_text(captions)
    return folder


def values(photos: Path | str = "{data}", **changes: Any) -> dict[str, Any]:
    """The recipe as YAML gives it; `changes` replace whole keys."""
    start: dict[str, Any] = {
        "vision": {"name": "test_efficientnet", "size": [96, 96], "weights": "random"},
        "decoder": {"width": 32, "depth": 2, "heads": 4, "max_length": 24, "vocab_size": 300},
        "sources": [{"path": str(photos), "format": "kohya", "mirror": True}],
        "optimiser": {
            "learning_rate": {"adapter": 3e-3, "decoder": 3e-3},
            "warmup_steps": 2,
            "ema": 0.9,
        },
        "validation": {"images": 0},
        "checkpoints": {"every": 2},
        "epochs": 3,
        "batch_images": 8,
    }
    if "init" in changes:
        del start["vision"], start["decoder"]
    return {**start, **changes}


def small_recipe(photos: Path | str = "{data}", **changes: Any) -> Recipe:
    return build(Recipe, values(photos, **changes), RecipeError, "a recipe")


def write_recipe(path: Path, photos: Path | str = "{data}", **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(values(photos, **changes)))
    return path
