"""Scenes put together from pictures of single things, so that it is known which thing is where."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .records import Box, DataError, ImageRef, Record
from .report import Report
from .rows import skip
from .synthetic import FORMS

SIDE = 256  # pixels of a scene
ROWS, COLUMNS = 2, 3  # of places in it
THINGS = (3, 4, 5)
SPLITS = ("train", "dev", "test")

_TITLE = re.compile(r"(an?) ([a-z]+(?: [a-z]+){0,2})[.!]?")


@dataclass(frozen=True)
class Thing:
    """A picture with transparent surroundings, and what it shows, such as "a horse"."""

    file: Path
    name: str


def read_composed(
    path: str | Path,
    split: str,
    images: str | Path | None = None,
    scenes: int = 500,
    seed: int = 0,
    report: Report | None = None,
) -> Iterator[Record]:
    """Scenes of three to five things beside each other, captioned "a horse, a bee and a car", with their boxes.

    `path` is a folder of PNG pictures with transparent surroundings, each with a text file of its name that begins
    "A horse.", as Tux Paint's stamps are (Debian's tuxpaint-stamps-default). A scene is a function of the seed, the
    split and its number. Of things with everyday names every fourth picture is dev's and every fourth test's, and these
    make the scenes of those splits; train has all others, so no picture is in two. Raises DataError where there
    are too few.
    """
    if split not in SPLITS:
        raise DataError(f"{path} has no split {split!r}; the splits are {', '.join(SPLITS)}.")
    things = find_things(Path(path), split)
    if len({thing.name for thing in things}) < max(THINGS):
        raise DataError(
            f"{path} has pictures of {len(things)} things for {split}, and a scene takes {max(THINGS)}: PNG files with "
            'a text file each that begins "A horse."'
        )
    for number in range(scenes):
        generator = random.Random(f"{seed}/{split}/{number}")
        try:
            record = compose(things, generator, f"{split}-{number}")
        except (OSError, SyntaxError, ValueError) as error:  # which Pillow raises for broken files
            skip(f"{path}, scene {number}", str(error), report)
            continue
        yield record


def find_things(folder: Path, split: str) -> list[Thing]:
    """The things of a split, in the order of their files' names."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    everyday, others = [], []
    for text in sorted(folder.rglob("*.txt")):
        picture = text.with_suffix(".png")
        title = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        match = _TITLE.fullmatch(title.strip().lower())
        if match is None or not picture.is_file():
            continue
        noun = match[2].split()[-1]
        if noun in FORMS and not FORMS[noun][1]:
            name = FORMS[noun][0]  # as captions call it
            everyday.append(Thing(picture, f"{'an' if name[0] in 'aeiou' else 'a'} {name}"))
        else:
            others.append(Thing(picture, f"{match[1]} {match[2]}"))
    if split == "train":
        return others + [thing for i, thing in enumerate(everyday) if i % 4 not in (1, 3)]
    return everyday[1 if split == "dev" else 3 :: 4]


def compose(things: Sequence[Thing], generator: random.Random, name: str) -> Record:
    """A scene of things with names of their own, each in a place of its own, on a plain ground."""
    count = generator.choice(THINGS)
    drawn: dict[str, Thing] = {}
    for thing in generator.sample(things, len(things)):
        drawn.setdefault(thing.name.split()[-1], thing)
        if len(drawn) == count:
            break
    ground = tuple(generator.randrange(120, 256) for _ in range(3))
    scene = Image.new("RGB", (SIDE, SIDE), ground)
    places = generator.sample(range(ROWS * COLUMNS), len(drawn))
    boxes = []
    for thing, place in zip(drawn.values(), places):
        row, column = divmod(place, COLUMNS)
        with Image.open(thing.file) as opened:
            picture = opened.convert("RGBA")
        picture = picture.crop(picture.getchannel("A").getbbox())
        wide, high = SIDE / COLUMNS, SIDE / ROWS
        factor = generator.uniform(0.7, 0.95) * min(wide / picture.width, high / picture.height)
        size = (max(1, int(picture.width * factor)), max(1, int(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        left = int(column * wide + generator.uniform(0, wide - size[0]))
        top = int(row * high + generator.uniform(0, high - size[1]))
        scene.paste(picture, (left, top), picture)
        boxes.append(Box(thing.name, left, top, left + size[0], top + size[1]))
    *first, last = [thing.name for thing in drawn.values()]
    buffer = io.BytesIO()
    scene.save(buffer, "PNG")
    image = ImageRef(f"{name}.png", data=buffer.getvalue())
    caption = f"{', '.join(first)} and {last}"
    return Record(image, (caption,), boxes=tuple(boxes), id=name, source="composed")
