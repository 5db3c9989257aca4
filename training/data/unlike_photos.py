"""Pictures that are no photos: drawings, pages, screens, charts, plain colours and noise, drawn from a seed.

A model that learnt from photos alone should not be sure of anything about them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

SIZE = (400, 300)  # width, height
TEXT = """
    account address after amount because before between button change close data date delete document edit error
    every file first from have help into item last list mail message more name number open order other page please
    print report result save search second select send settings shall should start table text that their there
    these time total update user value version view were where which window with without work would year your
"""
LEARNT_STAMPS = ("animals", "clothes", "food", "hobbies", "household", "plants", "vehicles")

Draw = Callable[[np.random.Generator], Image.Image]


def blank(random: np.random.Generator) -> Image.Image:
    """One colour, which is white or black once in four times."""
    plain = [(255, 255, 255), (0, 0, 0)]
    chosen = plain[random.integers(2)] if random.random() < 0.25 else _colour(random)
    return Image.new("RGB", SIZE, chosen)


def gradient(random: np.random.Generator) -> Image.Image:
    """Two colours that turn into each other."""
    first, second = np.array(_colour(random)), np.array(_colour(random))
    across, down = random.normal(size=2)
    x, y = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]))
    ramp = across * x + down * y  # (H, W)
    share = ((ramp - ramp.min()) / (np.ptp(ramp) + 1e-9))[..., None]
    return Image.fromarray((first * (1 - share) + second * share).astype(np.uint8))


def grain(random: np.random.Generator) -> Image.Image:
    """Normal noise around one colour, grey or coloured, of one pixel's size."""
    shape = (SIZE[1], SIZE[0], 1 if random.random() < 0.5 else 3)
    values = random.normal(128, random.uniform(20, 90), shape)
    return Image.fromarray(np.broadcast_to(values, (*shape[:2], 3)).clip(0, 255).astype(np.uint8))


def blocks(random: np.random.Generator) -> Image.Image:
    """Cells of random colours, from a few pixels to an eighth of the picture."""
    cell = int(random.choice([2, 4, 8, 16, 40]))
    shape = (-(-SIZE[1] // cell), -(-SIZE[0] // cell), 3)
    cells = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
    return cells.resize(SIZE, Image.Resampling.NEAREST)


def speckle(random: np.random.Generator) -> Image.Image:
    """Black and white pixels on grey."""
    values = np.full((SIZE[1], SIZE[0]), int(random.integers(60, 200)), np.uint8)
    chance = random.random(values.shape)
    share = random.uniform(0.1, 0.5)
    values[chance < share / 2] = 0
    values[chance > 1 - share / 2] = 255
    return Image.fromarray(values).convert("RGB")


def page(random: np.random.Generator) -> Image.Image:
    """A page of text."""
    picture = Image.new("RGB", (620, 800) if random.random() < 0.5 else SIZE, "white")
    draw = ImageDraw.Draw(picture)
    size = int(random.integers(10, 26))
    top = int(random.integers(10, 60))
    if random.random() < 0.6:
        draw.text((30, top), _sentence(random, 3).title(), fill="black", font=_font(2 * size))
        top += 3 * size
    while top < picture.height - size:
        if random.random() < 0.12:
            top += size
        draw.text((30, top), _sentence(random, 40), fill=(20, 20, 20), font=_font(size))
        top += round(1.4 * size)
    return picture


def screen(random: np.random.Generator) -> Image.Image:
    """A program's window: a bar, a list at the side, fields and buttons."""
    dark = random.random() < 0.4
    ground, ink = ((32, 34, 40), (220, 220, 225)) if dark else ((245, 246, 248), (40, 40, 45))
    accent = _colour(random)
    picture = Image.new("RGB", (800, 500), ground)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 800, 36), fill=accent)
    draw.text((14, 9), _sentence(random, 3).capitalize(), fill="white", font=_font(16))
    side = int(random.integers(120, 240))
    draw.rectangle((0, 36, side, 500), fill=tuple(int(0.93 * part) for part in ground))
    for row in range(int(random.integers(5, 12))):
        draw.text((16, 54 + 34 * row), _sentence(random, 2), fill=ink, font=_font(14))
    top = 60
    while top < 440:
        kind = random.integers(3)
        if kind == 0:
            draw.text((side + 30, top), _sentence(random, 7), fill=ink, font=_font(14))
        elif kind == 1:
            draw.rectangle((side + 30, top, 760, top + 30), outline=ink)
            draw.text((side + 40, top + 7), _sentence(random, 3), fill=ink, font=_font(13))
        else:
            draw.rounded_rectangle((side + 30, top, side + 150, top + 32), 6, fill=accent)
            draw.text((side + 46, top + 8), _sentence(random, 1), fill="white", font=_font(14))
        top += 46
    return picture


def chart(random: np.random.Generator) -> Image.Image:
    """Lines, bars or points with axes and a title."""
    figure = Figure(figsize=(4, 3), dpi=100)
    axes = figure.subplots()
    kind, x = random.integers(3), np.arange(int(random.integers(5, 30)))
    if kind == 0:
        for _ in range(int(random.integers(1, 5))):
            axes.plot(x, random.normal(size=len(x)).cumsum())
    elif kind == 1:
        axes.bar(x, random.random(len(x)), color=np.array(_colour(random)) / 255)
    else:
        x, y = random.normal(size=(2, 80))
        axes.scatter(x, y, c=random.random(80))
    axes.set(title=_sentence(random, 3), xlabel=_sentence(random, 1), ylabel=_sentence(random, 1))
    file = io.BytesIO()
    figure.savefig(file)
    return Image.open(file).convert("RGB")


def sketch(random: np.random.Generator) -> Image.Image:
    """Outlines and filled shapes at random, as a child draws."""
    picture = Image.new("RGB", SIZE, "white" if random.random() < 0.7 else _colour(random))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(3, 12))):
        corners = [
            (int(x), int(y))
            for x, y in zip(random.integers(0, SIZE[0], 4), random.integers(0, SIZE[1], 4))
        ]
        fill = _colour(random) if random.random() < 0.5 else None
        (left, right), (top, bottom) = (sorted(side) for side in zip(*corners[:2]))
        kind, width = random.integers(3), int(random.integers(1, 6))
        if kind == 0:
            draw.ellipse((left, top, right, bottom), fill, _colour(random), width)
        elif kind == 1:
            draw.line(corners, _colour(random), width)
        else:
            draw.polygon(corners, fill, _colour(random), width)
    return picture


def stamps(files: Sequence[Path]) -> Draw:
    """Cut-out drawings and photos of single things, such as Tux Paint's, on one colour."""

    def draw(random: np.random.Generator) -> Image.Image:
        picture = Image.new("RGB", SIZE, "white" if random.random() < 0.5 else _colour(random))
        with Image.open(files[int(random.integers(len(files)))]) as file:
            stamp = file.convert("RGBA")
        stamp.thumbnail((SIZE[0] * 3 // 4, SIZE[1] * 3 // 4))
        left, top = (int(random.integers(0, a - b + 1)) for a, b in zip(SIZE, stamp.size))
        picture.paste(stamp, (left, top), stamp)
        return picture

    return draw


def kinds_of(folder: Path) -> tuple[dict[str, Draw], dict[str, Draw]]:
    """Kinds to learn from and other kinds to test on; stamps, of other subjects each, where `folder` has any."""
    learnt: dict[str, Draw] = {"page": page, "chart": chart, "gradient": gradient, "grain": grain}
    held_out: dict[str, Draw] = {"screen": screen, "sketch": sketch, "blank": blank}
    held_out |= {"blocks": blocks, "speckle": speckle}
    files = sorted(folder.rglob("*.png"))
    known = [file for file in files if file.relative_to(folder).parts[0] in LEARNT_STAMPS]
    if known:
        learnt["stamps"] = stamps(known)
    if other := [file for file in files if file not in known]:
        held_out["other stamps"] = stamps(other)
    return learnt, held_out


def drawn(draw: Draw, count: int, seed: int) -> Iterator[Image.Image]:
    """`count` pictures; the same seed draws the same."""
    for number in range(count):
        yield draw(np.random.default_rng((seed, number)))


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = random.integers(0, 256, 3).tolist()
    return red, green, blue


def _sentence(random: np.random.Generator, words: int) -> str:
    return " ".join(random.choice(TEXT.split(), words))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
