"""Images as a batch sees them: mirrored only where that is true, augmented by the generator alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.records import ImageRef, Record
from training.loop.inputs import NoImage, Pixels, augmented, mirrors
from training.recipe.recipe import Augment, Source
from training.recipe.sources import Group
from vlm.images import ImageError, Preprocess

PREPROCESS = Preprocess((32, 48), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def group(path: Path | str, text: str = "a dog", mirror: bool = True) -> Group:
    image = ImageRef(str(path))
    return Group(image, (Record(image, (text,)),), Source("x", mirror=mirror))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Dark on the left, bright on the right."""
    columns = np.linspace(0, 255, 60, dtype=np.uint8)
    Image.fromarray(np.tile(columns, (40, 1))).convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_half_of_the_images_are_mirrored_except_where_a_text_names_a_side() -> None:
    draws = [random.Random(seed) for seed in range(300)]
    assert 120 < sum(mirrors(group("a"), draw) for draw in draws) < 180
    assert not any(mirrors(group("a", "a dog on the left"), draw) for draw in draws)
    assert not any(mirrors(group("a", mirror=False), draw) for draw in draws)
    assert not mirrors(group("a"), None)


def test_pixels_are_those_of_the_image_or_of_its_mirror_image(picture: Path) -> None:
    pixels = Pixels(PREPROCESS, Augment())
    plain = pixels.load(group(picture))
    assert plain.shape == pixels.blank.shape == (3, 32, 48)
    seen = [pixels.load(group(picture), random.Random(seed)) for seed in range(8)]
    mirrored = [not torch.allclose(one, plain) for one in seen]
    assert len(set(mirrored)) == 2
    for one, is_mirrored in zip(seen, mirrored):
        assert torch.allclose(one, plain.flip(-1) if is_mirrored else plain, atol=0.02)


def test_augmentation_is_decided_by_the_generator(picture: Path) -> None:
    image, augment = Image.open(picture), Augment(crop=0.5, colour=0.4)
    first, again, other = (augmented(image, augment, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_crop_keeps_the_share_of_the_area_and_stays_inside(picture: Path) -> None:
    image = Image.open(picture)
    sizes = [augmented(image, Augment(crop=0.4), random.Random(seed)).size for seed in range(200)]
    areas = [width * height / (60 * 40) for width, height in sizes]
    assert min(areas) > 0.55
    assert max(areas) <= 1
    assert sum(areas) / len(areas) < 0.9


def test_colour_changes_keep_hues() -> None:
    image = Image.new("RGB", (20, 20), (200, 40, 40))
    for seed in range(50):
        red, green, blue = augmented(image, Augment(colour=0.4), random.Random(seed)).getpixel(
            (5, 5)
        )
        assert red > green == blue


def test_a_broken_image_raises(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(ImageError):
        Pixels(PREPROCESS, Augment()).load(group(tmp_path / "bad.png"))


def test_a_blind_model_sees_zeros_whatever_the_image() -> None:
    inputs = NoImage((2, 3), (6, 8))
    assert inputs.grid == (2, 3)
    assert torch.equal(inputs.load(group("there is no such file")), torch.zeros(6, 8))
