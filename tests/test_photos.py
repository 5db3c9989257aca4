"""Large JPEGs are decoded at a fraction of their size: the model's pixels hardly differ, and nothing else does."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from documentation import ROOT
from PIL import ExifTags, Image

from vlm.captioner import Captioner
from vlm.images import ImageError, Preprocess, load_image, photo, read_photo
from vlm.images.decode import load_reduced
from vlm.images.frame import Interpolation

EXAMPLES = sorted((ROOT / "assets" / "examples").glob("*.jpg"))
MEAN, MOST = 1, 8  # levels of 255, as `read_photo` says


def preprocess(size: tuple[int, int] = (64, 64), **options: object) -> Preprocess:
    return Preprocess(size, (0.5,) * 3, (0.5,) * 3, **options)  # type: ignore[arg-type]


@cache
def enlarged(path: Path, size: tuple[int, int]) -> Image.Image:
    """An example as a camera takes it: large, and with the noise of its sensor."""
    levels = np.asarray(load_image(path).resize(size), np.float32)
    noise = np.random.default_rng(0).normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((levels + noise).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, orientation: int = 1, **options: object) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, exif=tags, **options)
    return file.getvalue()


def check(data: bytes, wanted: Preprocess) -> None:
    whole, found = load_image(data), read_photo(data, wanted)
    assert found.frame == wanted.frame(*whole.size)
    assert found.picture.tobytes() == whole.tobytes()
    assert found.seen.size == wanted.size[::-1]
    pairs = np.asarray(found.seen, int), np.asarray(wanted.resized(whole), int)
    apart = np.abs(pairs[0] - pairs[1])
    assert apart.mean() <= MEAN
    assert np.quantile(apart, 0.995) <= MOST


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [(401, 767), (961, 723)], ids=str)
def test_the_models_pixels_are_nearly_those_of_the_whole_photo(
    path: Path, size: tuple[int, int]
) -> None:
    data = jpeg(enlarged(path, size))
    assert load_reduced(data, preprocess().spare) is not None
    check(data, preprocess())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_each_orientation_lies_where_the_whole_one_does(orientation: int, fit: str) -> None:
    # Sides that eight does not divide, so that the last pixels stand for fewer, on whichever side they come to lie.
    data = jpeg(enlarged(EXAMPLES[0], (961, 723)), orientation)
    assert load_reduced(data, preprocess(fit=fit).spare) is not None
    check(data, preprocess(fit=fit))
    check(data, preprocess((40, 64), fit=fit))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mark_at_the_edge_stays_in_its_place(orientation: int) -> None:
    """Where edges are as sharp as these, a shift by one of the photo's pixels is a mean of two levels and more."""
    picture = Image.new("RGB", (1605, 1203), "white")
    for i in range(0, 1605, 100):
        picture.paste("black", (i, 0, i + 50, 1203))
    data, wanted = jpeg(picture, orientation), preprocess((96, 96))
    seen, whole = read_photo(data, wanted).seen, wanted.resized(load_image(data))
    assert np.abs(np.asarray(seen, int) - np.asarray(whole, int)).mean() <= MEAN


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_every_interpolation(interpolation: str) -> None:
    check(jpeg(enlarged(EXAMPLES[1], (960, 720))), preprocess(interpolation=interpolation))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours(mode: str) -> None:
    check(jpeg(enlarged(EXAMPLES[2], (800, 600)).convert(mode)), preprocess())


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}], ids=str)
def test_other_kinds_of_jpeg(options: dict[str, object]) -> None:
    check(jpeg(enlarged(EXAMPLES[3], (800, 600)), **options), preprocess())


def test_pictures_of_several_frames() -> None:
    file = io.BytesIO()
    first, second = (enlarged(path, (800, 600)) for path in EXAMPLES[:2])
    first.save(file, "MPO", save_all=True, append_images=[second])
    check(file.getvalue(), preprocess())


def test_a_photo_is_decoded_in_whole_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(enlarged(EXAMPLES[0], (960, 720))))
    decoded: list[object] = []
    monkeypatch.setattr(
        photo, "load_image", lambda source: decoded.append(source) or load_image(source)
    )
    found = read_photo(path, preprocess())
    assert not decoded
    path.unlink()  # it is read once
    assert found.picture.size == (960, 720)
    assert found.picture is found.picture
    assert len(decoded) == 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_in_whole(kind: str) -> None:
    file = io.BytesIO()
    enlarged(EXAMPLES[0], (800, 600)).save(file, kind)
    data, wanted = file.getvalue(), preprocess()
    assert load_reduced(data, wanted.spare) is None
    assert read_photo(data, wanted).seen.tobytes() == wanted.resized(load_image(data)).tobytes()


@pytest.mark.parametrize("size", [(180, 400), (191, 191)], ids=str)
def test_a_photo_of_less_than_four_times_the_models_size_is_decoded_in_whole(
    size: tuple[int, int],
) -> None:
    assert load_reduced(jpeg(enlarged(EXAMPLES[0], size)), preprocess().spare) is None


@pytest.mark.parametrize("cut", [20, 700, 0.5, 0.98, -2])
def test_what_is_damaged_is_read_or_refused_as_ever(cut: float) -> None:
    data = jpeg(enlarged(EXAMPLES[0], (800, 600)))
    data = data[: cut if isinstance(cut, int) else int(len(data) * cut)]

    def said(read: object) -> str:
        try:
            read()  # type: ignore[operator]
        except ImageError as error:
            return str(error)
        return ""

    refused = said(lambda: load_image(data))
    assert said(lambda: read_photo(data, preprocess())) == refused
    if not refused:
        check(data, preprocess())


def test_too_large_is_told_of_the_whole_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(enlarged(EXAMPLES[0], (800, 600)))
    monkeypatch.setattr("vlm.images.decode.MAX_PIXELS", 800 * 600 - 1)
    with pytest.raises(ImageError, match="too large, 800 x 600"):
        read_photo(data, preprocess())


def test_a_path_that_is_no_photo_is_told_as_ever(tmp_path: Path) -> None:
    for bad in (tmp_path, tmp_path / "none.jpg", "", "http://example.org/a.jpg", 3):
        with pytest.raises(ImageError) as whole:
            load_image(bad)  # type: ignore[arg-type]
        with pytest.raises(ImageError) as found:
            read_photo(bad, preprocess())  # type: ignore[arg-type]
        assert str(found.value) == str(whole.value)


def test_an_encoded_photo_has_all_its_pixels_for_pictures(tiny: Captioner) -> None:
    data = jpeg(enlarged(EXAMPLES[0], (960, 720)), orientation=6)
    whole = load_image(data)
    image = tiny.encode(data)
    assert image.picture.tobytes() == whole.tobytes()
    assert image.frame == tiny.preprocess.frame(720, 960)
    assert image.caption(max_tokens=3).overlay(0, legend=False).size == whole.size
    assert image.shrunk(100).frame == image.frame.scaled(75, 100)


def test_a_photo_that_was_read_is_encoded_as_it_is(tiny: Captioner) -> None:
    data = jpeg(enlarged(EXAMPLES[0], (960, 720)))
    first, second = tiny.encode_all([tiny.read(data), data])
    assert first.memory.tokens.equal(second.memory.tokens)


def test_a_page_that_is_padded_is_decoded_in_whole() -> None:
    data, wanted = jpeg(enlarged(EXAMPLES[0], (800, 600))), preprocess(fit="pad")
    assert read_photo(data, wanted).seen.tobytes() == wanted.resized(load_image(data)).tobytes()
