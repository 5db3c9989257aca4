"""Scenes of pictured things on plain grounds, with captions, questions and boxes that are true by construction.

The things are stamps as Tux Paint has them: a PNG with transparency, and beside it a text that begins with its name
("A cup of coffee."). Photographs and drawings alike, they name hundreds of things that captions of everyday photos
seldom do. A scene is one thing, one thing several times, or several things apart from each other.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .records import DataError
from .synthetic import plural

SIDE = 224  # pixels
GROUNDS = {
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "gray": (128, 128, 128),
    "red": (200, 40, 40),
    "green": (60, 150, 60),
    "blue": (50, 90, 200),
    "yellow": (240, 215, 70),
    "orange": (240, 145, 40),
    "purple": (130, 70, 170),
    "pink": (245, 170, 200),
    "brown": (120, 80, 50),
}
NUMBERS = ("no", "one", "two", "three", "four", "five")
# Stamps that are letters, signs and coins, or whose text is about something else.
_NO_THINGS = ("symbols",)
_NAME = re.compile(r"(?:an?|some) ((?:[a-z-]+ ){0,3}[a-z-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Stamp:
    """A thing to place: its file and its name as a caption has it, "a cup of coffee"."""

    file: Path
    phrase: str
    kind: str  # the folder of its kind, e.g. "animals"

    @property
    def name(self) -> str:
        """The name without its article."""
        return self.phrase.split(" ", 1)[1]

    @property
    def countable(self) -> bool:
        """Whether several of it have a plain plural: not "some flowers", "a pair of pants"."""
        return not self.phrase.startswith("some ") and " of " not in self.name


@dataclass(frozen=True)
class Scene:
    """A drawn scene: things with their boxes `(left, top, right, bottom)` in pixels, and what is said of it."""

    image: Image.Image
    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...]
    captions: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]


def read_stamps(folder: str | Path) -> list[Stamp]:
    """The stamps below a folder whose text names a thing. Raises DataError when there are none."""
    folder = Path(folder)
    stamps = []
    for text in sorted(folder.rglob("*.txt")):
        file = text.with_suffix(".png")
        kind = text.relative_to(folder).parts[0]
        if kind in _NO_THINGS or not file.is_file():
            continue
        first = re.split(r"[.!(—]", text.read_text(encoding="utf-8").strip().splitlines()[0])[0]
        if match := _NAME.fullmatch(first.strip()):
            stamps.append(Stamp(file, match[0].lower(), kind))
    if len({stamp.phrase for stamp in stamps}) < 2:
        raise DataError(
            f"{folder} has no stamps: pictures name.png, each with a name.txt beside it."
        )
    return stamps


def draw_scene(stamps: Sequence[Stamp], generator: random.Random) -> Scene:
    """One scene of some of the stamps."""
    colour = generator.choice(list(GROUNDS))
    ground = tuple(max(0, min(255, c + generator.randint(-12, 12))) for c in GROUNDS[colour])
    image = Image.new("RGB", (SIDE, SIDE), ground)
    count = generator.choices(range(1, 6), (5, 4, 3, 2, 1))[0]
    first = generator.choice(stamps)
    alike = count > 1 and first.countable and generator.random() < 0.35
    chosen = [first] * count if alike else [first, *_others(first, stamps, count - 1, generator)]
    boxes = _place(image, chosen, generator)
    placed = chosen[: len(boxes)]
    captions = tuple(_captions(placed, boxes, colour, generator))
    questions = tuple(_questions(placed, boxes, colour, stamps, generator))
    named = tuple((s.phrase, box) for s, box in zip(placed, boxes, strict=True))
    return Scene(image, named, captions, questions)


def write_scenes(
    stamps: Sequence[Stamp], out: str | Path, split: str, count: int, seed: int = 0
) -> None:
    """Draw scenes into `out`: `images/`, `captions_SPLIT.json` in COCO's keys, `questions_SPLIT.json` in BLIP's,
    and `boxes_SPLIT.tsv` (file, phrase, left, top, right, bottom). They are a function of split and seed.
    """
    out = Path(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    boxes = []
    for number in range(count):
        scene = draw_scene(stamps, random.Random(f"{seed}/{split}/{number}"))
        name = f"{split}_{number:06d}.jpg"
        scene.image.save(out / "images" / name, quality=90)
        images.append({"id": number, "file_name": name})
        annotations += [
            {"id": len(annotations) + i, "image_id": number, "caption": caption}
            for i, caption in enumerate(scene.captions)
        ]
        questions += [
            {"image": name, "question": question, "answer": [answer]}
            for question, answer in scene.questions
        ]
        boxes += ["\t".join(map(str, (name, phrase, *box))) for phrase, box in scene.boxes]
    captions = {"images": images, "annotations": annotations}
    (out / f"captions_{split}.json").write_text(json.dumps(captions), encoding="utf-8")
    (out / f"questions_{split}.json").write_text(json.dumps(questions), encoding="utf-8")
    (out / f"boxes_{split}.tsv").write_text("\n".join(boxes) + "\n", encoding="utf-8")


def _others(
    first: Stamp, stamps: Sequence[Stamp], count: int, generator: random.Random
) -> list[Stamp]:
    """Things of other names than the first and than each other."""
    found: dict[str, Stamp] = {}
    while len(found) < count:
        stamp = generator.choice(stamps)
        if stamp.phrase != first.phrase:
            found.setdefault(stamp.phrase, stamp)
        if len(found) + 1 == len({s.phrase for s in stamps}):
            break
    return list(found.values())


def _place(
    image: Image.Image, stamps: Sequence[Stamp], generator: random.Random
) -> list[tuple[int, int, int, int]]:
    """Paste each stamp where no other is, and give their boxes; what finds no place is left out with all behind it."""
    boxes: list[tuple[int, int, int, int]] = []
    largest = {1: 0.95, 2: 0.5, 3: 0.45}.get(len(stamps), 0.35)
    for stamp in stamps:
        picture = _cut_out(stamp.file)
        side = round(SIDE * largest * generator.uniform(0.65, 1))
        scale = side / max(picture.size)
        width, height = (max(8, round(length * scale)) for length in picture.size)
        for _ in range(60):
            left, top = generator.randint(0, SIDE - width), generator.randint(0, SIDE - height)
            box = (left, top, left + width, top + height)
            if not any(_overlap(box, other) for other in boxes):
                break
        else:
            return boxes
        picture = picture.resize((width, height))
        image.paste(picture, (left, top), picture)
        boxes.append(box)
    return boxes


def _cut_out(file: Path) -> Image.Image:
    """The picture without its transparent margins."""
    with Image.open(file) as opened:
        picture = opened.convert("RGBA")
    return picture.crop(picture.getchannel("A").getbbox())


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _captions(
    stamps: Sequence[Stamp],
    boxes: Sequence[tuple[int, int, int, int]],
    colour: str,
    generator: random.Random,
) -> Iterator[str]:
    phrases = [stamp.phrase for stamp in stamps]
    if len(stamps) > 1 and len(set(phrases)) == 1:
        things = f"{NUMBERS[len(stamps)]} {plural(stamps[0].name)}"
    else:
        generator.shuffle(phrases)
        things = (
            phrases[-1] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
        )
    article = "an" if colour[0] == "o" else "a"
    yield generator.choice(
        (things, f"{things} on {article} {colour} background", f"a picture of {things}")
    )
    yield f"{things} on {article} {colour} background"
    if len(stamps) == 2 and stamps[0].phrase != stamps[1].phrase:
        (one, box), (other, other_box) = zip(stamps, boxes, strict=True)
        if box[2] <= other_box[0]:
            yield f"{one.phrase} to the left of {other.phrase}"
        elif other_box[2] <= box[0]:
            yield f"{one.phrase} to the right of {other.phrase}"
        else:
            above = "above" if box[1] < other_box[1] else "below"
            yield f"{one.phrase} {above} {other.phrase}"


def _questions(
    placed: Sequence[Stamp],
    boxes: Sequence[tuple[int, int, int, int]],
    colour: str,
    stamps: Sequence[Stamp],
    generator: random.Random,
) -> Iterator[tuple[str, str]]:
    names = sorted({stamp.name for stamp in placed})
    yield "what color is the background?", colour
    if countable := [stamp.name for stamp in placed if stamp.countable]:
        thing = generator.choice(countable)
        yield f"how many {plural(thing)} are there?", str(sum(s.name == thing for s in placed))
    absent = [stamp.phrase for stamp in stamps if stamp.name not in names]
    if absent and generator.random() < 0.5:
        yield f"is there {generator.choice(absent)} in the picture?", "no"
    else:
        yield f"is there {generator.choice(placed).phrase} in the picture?", "yes"
    if len(names) == 1:
        animal = placed[0].kind == "animals"
        yield ("what animal is this?" if animal else "what is this?"), names[0]
        yield "what is in the picture?", names[0]
    elif len(placed) == 2:
        (one, box), (other, other_box) = zip(placed, boxes, strict=True)
        yield f"what is next to the {one.name}?", other.name
        if other_box[2] <= box[0]:
            one, other, box, other_box = other, one, other_box, box
        if box[2] <= other_box[0]:
            yield "what is on the left?", one.name
            yield "what is on the right?", other.name
