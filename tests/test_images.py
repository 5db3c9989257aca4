"""Any bad or odd image is handled right or named in one sentence, and patches are where the Frame says."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torchvision.transforms import v2

from vlm.images import EXTENSIONS, Frame, ImageError, Preprocess, load_image
from vlm.images.decode import MAX_PIXELS
from vlm.images.frame import Interpolation

# Four colours that no flip or turn maps onto itself; JPEG keeps them apart.
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

MEAN, STD = (0.48, 0.45, 0.4), (0.27, 0.26, 0.28)


def quarters(width: int = 64, height: int = 32) -> Image.Image:
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    """The colour at the middle of each quarter."""
    places = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
    return [image.getpixel((int(x * image.width), int(y * image.height))) for x, y in places]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def smooth(width: int, height: int) -> Image.Image:
    """A picture without fine detail, as photos mostly are."""
    return noise(9, 7).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand: depths and sizes that PIL does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def problem(source: object) -> str:
    """The sentence that says why an image cannot be read."""
    with pytest.raises(ImageError) as raised:
        load_image(source)
    sentence = str(raised.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


def close(actual: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 3) -> bool:
    return max(abs(a - b) for a, b in zip(actual, expected, strict=True)) <= tolerance


def test_example_photos() -> None:
    """Those that ship with the project load, are small, and have a line on where they come from."""
    folder = Path(__file__).parent.parent / "assets" / "examples"
    credits = (folder / "README.md").read_text()
    photos = [path for path in folder.iterdir() if path.suffix == ".jpg"]
    assert len(photos) >= 4
    for photo in photos:
        assert max(load_image(photo).size) <= 640
        assert photo.stat().st_size < 100_000
        assert not Image.open(photo).getexif()
        assert f"| `{photo.name}` |" in credits


# What is no image


@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is text\n" * 9,
        b"%PDF-1.7\n",
        b"<svg xmlns='...'></svg>",
        b"\xff\xd8",
        b"\0" * 64,
    ],
)
def test_not_an_image(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert str(path) in problem(path)
    assert problem(content).startswith("the image is not an image that can be read")


def test_formats_that_start_programs_are_refused() -> None:
    """PIL hands EPS to Ghostscript."""
    eps = encoded(quarters(), "EPS")
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    assert "not an image that can be read" in problem(eps)


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    assert problem(path) == f"{path} is empty (0 bytes)"
    assert problem(b"") == "the image is empty (0 bytes)"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated(kind: str, tmp_path: Path) -> None:
    whole = encoded(noise(64, 48), kind)
    path = tmp_path / "half"
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in problem(path)
    assert problem(path.read_bytes()).startswith("the image ")


def test_truncated_image_that_pil_opened() -> None:
    """PIL opens lazily: the header is fine, and the missing half shows only when pixels are wanted."""
    whole = encoded(noise(64, 48), "JPEG")
    opened = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    assert "truncated" in problem(opened)


def test_closed_image() -> None:
    opened = Image.open(io.BytesIO(encoded(noise(8, 8), "PNG")))
    opened.close()
    problem(opened)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_load_or_say_so(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
    content = bytearray(encoded(quarters(16, 8), kind, **options))
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    del content[data.draw(places | st.just(len(content))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # No other exception may leave load_image, and what it returns is whole.
        with suppress(ImageError):
            assert np.asarray(load_image(bytes(content))).shape[2] == 3


# Sizes


def test_one_pixel() -> None:
    image = load_image(encoded(Image.new("RGB", (1, 1), BLUE), "PNG"))
    assert (image.size, image.getpixel((0, 0))) == ((1, 1), BLUE)
    pixels, frame = Preprocess((32, 48), MEAN, STD)(image)
    assert pixels.shape == (3, 32, 48)
    assert frame.patch_at(0.5, 0.5, (3, 5)) == (1, 2)


def test_decompression_bomb() -> None:
    """50 kB that would decode to 400 megapixels; the sentence shows that the size stopped it, not the data."""
    bomb = png(20_000, 20_000, 1, 0, bytes(20_000 * 2_501))
    assert len(bomb) < 60_000
    assert "too large" in problem(bomb)


@pytest.mark.parametrize(("width", "height"), [(12_000, 10_001), (70_000, 2), (2, 70_000)])
def test_too_large(width: int, height: int) -> None:
    """Past our own limits but not past PIL's: refused before its data, of which there is none here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sentence = problem(png(width, height, 8, 2, b""))
    assert f"{width:,} x {height:,}" in sentence


def test_limit_leaves_room_for_cameras() -> None:
    """A 108-megapixel phone photo passes the size check, and no warning of PIL's own limit shows."""
    assert MAX_PIXELS >= 12_000 * 9_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "truncated" in problem(png(12_000, 9_000, 8, 2, b""))


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("size", [(1, 5_000), (5_000, 1), (3, 2_999)])
def test_thin_images(size: tuple[int, int], fit: str) -> None:
    image = load_image(encoded(smooth(*size), "PNG"))
    pixels, frame = Preprocess((32, 48), MEAN, STD, fit)(image)
    assert pixels.shape == (3, 32, 48)
    assert torch.isfinite(pixels).all()
    assert frame.patch_at(size[0] / 2, size[1] / 2, (4, 6)) is not None


# Modes, depths and frames


def test_colours_of_plain_files(tmp_path: Path) -> None:
    for suffix in EXTENSIONS:
        path = tmp_path / f"photo{suffix}"
        quarters().save(path)
        image = load_image(path)
        assert image.mode == "RGB"
        for actual, expected in zip(colours(image), [RED, GREEN, BLUE, WHITE]):
            assert close(actual, expected), suffix


def test_source_forms_agree(tmp_path: Path) -> None:
    picture = noise(12, 7)
    path = tmp_path / "photo.png"
    picture.save(path)
    content = path.read_bytes()
    forms = [path, str(path), content, bytearray(content), memoryview(content), picture]
    for source in [*forms, np.asarray(picture), Image.open(path)]:
        assert np.array_equal(np.asarray(load_image(source)), np.asarray(picture))


def test_result_is_a_copy() -> None:
    picture = quarters()
    load_image(picture).paste(0, (0, 0, 64, 32))
    assert colours(picture) == [RED, GREEN, BLUE, WHITE]


def test_cmyk() -> None:
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # full magenta and yellow print red
    assert close(load_image(encoded(ink, "JPEG", quality=95)).getpixel((4, 4)), RED)
    assert load_image(ink).getpixel((4, 4)) == RED


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"]
)
def test_every_mode_of_pil(mode: str) -> None:
    black_and_white = Image.new("RGB", (4, 4))
    black_and_white.paste(WHITE, (2, 0, 4, 4))
    image = load_image(black_and_white.convert(mode))
    assert image.mode == "RGB"
    assert close(image.getpixel((0, 0)), (0, 0, 0))
    assert close(image.getpixel((3, 0)), WHITE)


def test_transparency_is_laid_on_white() -> None:
    glass = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    glass.putpixel((1, 0), (255, 0, 0, 0))
    glass.putpixel((2, 0), (255, 0, 0, 51))
    for content in (encoded(glass, "PNG"), encoded(glass, "WEBP", lossless=True, exact=True)):
        image = load_image(content)
        assert [image.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, (255, 204, 204)]


def test_palette_with_alpha() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        palette.putpixel((x, 0), x)
    one_colour = load_image(encoded(palette, "PNG", transparency=1))
    assert [one_colour.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, BLUE]
    shades = load_image(encoded(palette, "PNG", transparency=bytes([255, 0, 51])))
    assert [shades.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, (204, 204, 255)]
    gif = load_image(encoded(palette, "GIF", transparency=1))
    assert [gif.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, BLUE]


def test_transparent_colour_of_rgb() -> None:
    image = load_image(encoded(quarters(), "PNG", transparency=GREEN))
    assert colours(image) == [RED, WHITE, BLUE, WHITE]


def test_16_bit_grey() -> None:
    """PIL's own conversion clips at 255, which makes nearly all of a 16-bit picture white."""
    values = np.array([[0, 255, 32_768, 65_535]], dtype=np.uint16)
    image = load_image(encoded(Image.fromarray(values), "PNG"))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 0, 128, 255)]


def test_16_bit_grey_of_a_dark_scene_stays_dark() -> None:
    values = np.full((2, 2), 200, dtype=np.uint16)
    assert load_image(encoded(Image.fromarray(values), "PNG")).getpixel((0, 0)) == (0, 0, 0)


def test_16_bit_colour() -> None:
    pixel = struct.pack(">3H", 65_535, 32_768, 0)
    image = load_image(png(1, 2, 16, 2, (b"\0" + pixel) * 2))
    assert close(image.getpixel((0, 1)), (255, 128, 0), 1)
    with_alpha = load_image(png(1, 1, 16, 6, b"\0" + pixel + struct.pack(">H", 0)))
    assert with_alpha.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("top", [1.0, 255.0, 65_535.0, 1e6])
def test_floating_point_tiff(top: float) -> None:
    values = np.array([[0, top / 2, top, np.nan, -1]], dtype=np.float32)
    image = load_image(encoded(Image.fromarray(values), "TIFF"))
    assert [image.getpixel((x, 0))[0] for x in range(5)] == pytest.approx(
        [0, 128, 255, 0, 0], abs=1
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert load_image(content).getpixel((0, 0)) == RED


def test_frame_that_the_caller_chose_is_kept() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    opened = Image.open(
        io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    )
    opened.seek(1)
    assert load_image(opened).getpixel((0, 0)) == GREEN
    assert opened.tell() == 1


# EXIF

STORED = {  # how a camera that was held differently stores the upright picture (EXIF 2.3, Orientation)
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.rotate(180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.rotate(90, expand=True).transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    6: lambda image: image.rotate(90, expand=True),  # to be turned clockwise to stand upright
    7: lambda image: image.rotate(-90, expand=True).transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    8: lambda image: image.rotate(-90, expand=True),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    stored = STORED[orientation](quarters())
    image = load_image(encoded(stored, kind, exif=exif(orientation)))
    assert image.size == (64, 32)
    for actual, expected in zip(colours(image), [RED, GREEN, BLUE, WHITE]):
        assert close(actual, expected, 12)


def test_exif_is_applied_once() -> None:
    once = load_image(encoded(STORED[6](quarters()), "PNG", exif=exif(6)))
    again = load_image(once)
    written = load_image(encoded(once, "PNG"))
    assert colours(again) == colours(written) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_exif_orientation_out_of_range(orientation: int) -> None:
    assert load_image(encoded(quarters(), "PNG", exif=exif(orientation))).size == (64, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "content", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0M"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exif_that_cannot_be_read_is_ignored(kind: str, content: bytes) -> None:
    assert load_image(encoded(quarters(), kind, exif=content)).size == (64, 32)


# Paths


def test_missing_file_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "no.jpg"
    assert problem(path) == f"{path}: no such file"
    assert problem(tmp_path) == f"{tmp_path} is a folder, not an image"


@pytest.mark.parametrize("name", ["x" * 5_000, "a\0b", "", "https://example.org/photo.jpg"])
def test_strings_that_are_no_paths(name: str) -> None:
    problem(name)


def test_pipe_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    problem(path)


@pytest.fixture
def private_folder() -> Iterator[Path]:
    """A folder with a photo, outside of pytest's, which none but its user may enter."""
    folder = Path(tempfile.mkdtemp())
    quarters().save(folder / "photo.png")
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permissions do not bind root: where the tests run as root, they give up its rights for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_534)  # nobody
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize(("of_folder", "of_file"), [(0o755, 0o000), (0o000, 0o644)])
def test_unreadable(private_folder: Path, of_folder: int, of_file: int) -> None:
    path = private_folder / "photo.png"
    path.chmod(of_file)
    private_folder.chmod(of_folder)
    with ordinary_user():
        sentence = problem(path)
    assert sentence == f"{path} cannot be read: Permission denied"


@pytest.mark.parametrize("source", [None, 3, 2.5, ["photo.jpg"], torch.zeros(3, 4, 4)])
def test_sources_of_other_types(source: object) -> None:
    assert type(source).__name__ in problem(source)


# Arrays


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", ">u2", "float16", "float32", "float64", "bool"]
)
def test_arrays(shape: tuple[int, ...], dtype: str) -> None:
    full = {"uint8": 255, "uint16": 65_535, ">u2": 65_535}.get(dtype, 1)
    array = np.full(shape, full, dtype=dtype)
    array[:, :3] = 0
    if shape[-1] == 4:
        array[..., 3] = full  # opaque
    image = load_image(array)
    assert image.size == (6, 4)
    assert image.getpixel((5, 0)) == WHITE
    assert image.getpixel((0, 0)) == (0, 0, 0)


def test_array_values() -> None:
    grey = np.array([[0, 0.5, 1.0]])
    assert [load_image(grey).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    deep = np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)
    assert [load_image(deep).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    glass = np.array([[[255, 0, 0, 0]]], dtype=np.uint8)
    assert load_image(glass).getpixel((0, 0)) == WHITE


def test_array_that_is_not_contiguous() -> None:
    array = np.asarray(noise(9, 6))
    view = array[::-1, ::2].transpose(1, 0, 2)
    assert np.array_equal(np.asarray(load_image(view)), view)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(()),
        np.zeros(5, np.uint8),
        np.zeros((0, 5), np.uint8),
        np.zeros((5, 0, 3), np.uint8),
        np.zeros((5, 5, 0), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((3, 5, 5), np.uint8),
        np.zeros((1, 5, 5, 3), np.uint8),
        np.zeros((5, 5), np.int64),
        np.zeros((5, 5), np.int8),
        np.zeros((5, 5), np.complex64),
        np.zeros((5, 5), object),
        np.zeros((5, 5), "U3"),
        np.zeros((5, 5), "M8[s]"),
        np.full((5, 5), 1.5),
        np.full((5, 5), -0.1),
        np.full((5, 5), np.nan),
        np.full((5, 5), np.inf),
    ],
    ids=lambda array: f"{array.shape}{array.dtype}",
)
def test_arrays_that_are_no_images(array: np.ndarray) -> None:
    assert "array" in problem(array)


def test_array_too_large() -> None:
    huge = np.broadcast_to(np.uint8(0), (1, 70_000))  # takes one byte
    assert "too large" in problem(huge)


# Frame

sides = st.integers(1, 6_000)
grids = st.tuples(st.integers(1, 40), st.integers(1, 40))
inputs = st.tuples(st.integers(1, 512), st.integers(1, 512))
fits = st.sampled_from(["squash", "crop"])


@given(width=sides, height=sides, size=inputs, fit=fits)
@example(width=3, height=3, size=(224, 224), fit="crop")
@example(width=65_535, height=1, size=(7, 3), fit="crop")
def test_frame_lies_within_the_image(
    width: int, height: int, size: tuple[int, int], fit: str
) -> None:
    frame = Preprocess(size, MEAN, STD, fit).frame(width, height)
    left, top, right, bottom = frame.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if fit == "squash":
        assert frame.box == (0, 0, width, height)
    else:  # as large as fits; centred and of the input's shape up to one of its pixels, as torchvision rounds
        assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)
        pixel = min(width / size[1], height / size[0])
        pixel_width, pixel_height = (right - left) / size[1], (bottom - top) / size[0]
        assert abs(left + right - width) <= pixel_width * 1.001
        assert abs(top + bottom - height) <= pixel_height * 1.001
        assert -0.001 <= width / pixel - width / pixel_width < 1.001
        assert -0.001 <= height / pixel - height / pixel_height < 1.001


@given(width=sides, height=sides, size=inputs, fit=fits, grid=grids, data=st.data())
def test_patch_at_inverts_patch_box(
    width: int,
    height: int,
    size: tuple[int, int],
    fit: str,
    grid: tuple[int, int],
    data: st.DataObject,
) -> None:
    frame = Preprocess(size, MEAN, STD, fit).frame(width, height)
    row, column = data.draw(st.integers(0, grid[0] - 1)), data.draw(st.integers(0, grid[1] - 1))
    left, top, right, bottom = frame.patch_box(row, column, grid)
    inside = st.floats(0.001, 0.999)
    x = left + data.draw(inside) * (right - left)
    y = top + data.draw(inside) * (bottom - top)
    assert frame.patch_at(x, y, grid) == (row, column)


@given(width=sides, height=sides, size=inputs, fit=fits, grid=grids, data=st.data())
def test_patch_box_holds_the_point(
    width: int,
    height: int,
    size: tuple[int, int],
    fit: str,
    grid: tuple[int, int],
    data: st.DataObject,
) -> None:
    frame = Preprocess(size, MEAN, STD, fit).frame(width, height)
    x, y = data.draw(st.floats(-10, width + 10)), data.draw(st.floats(-10, height + 10))
    patch = frame.patch_at(x, y, grid)
    left, top, right, bottom = frame.box
    assert (patch is not None) == (left <= x < right and top <= y < bottom)
    if patch is not None:
        assert 0 <= patch[0] < grid[0]
        assert 0 <= patch[1] < grid[1]
        left, top, right, bottom = frame.patch_box(*patch, grid)
        slack = 1e-9 * max(width, height)
        assert left - slack <= x <= right + slack
        assert top - slack <= y <= bottom + slack


def test_patches_tile_the_box() -> None:
    frame = Frame(100, 50, (25.0, 0.0, 75.0, 50.0))
    assert frame.patch_box(0, 0, (2, 4)) == (25, 0, 37.5, 25)
    assert frame.patch_box(1, 3, (2, 4)) == (62.5, 25, 75, 50)
    assert frame.patch_at(25, 0, (2, 4)) == (0, 0)
    assert frame.patch_at(74.9, 49.9, (2, 4)) == (1, 3)
    assert frame.patch_at(24.9, 0, (2, 4)) is None
    assert frame.patch_at(75, 0, (2, 4)) is None


# Preprocess


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("source", [(640, 427), (30, 50), (224, 224)])
def test_squash_is_a_plain_resize(interpolation: str, source: tuple[int, int]) -> None:
    image = noise(*source)
    pixels, frame = Preprocess((96, 160), MEAN, STD, "squash", interpolation)(image)
    resized = image.resize((160, 96), Image.Resampling[interpolation.upper()])
    expected = (np.asarray(resized, dtype=np.float64) / 255 - MEAN) / STD
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels.permute(1, 2, 0), expected, atol=1e-5)
    assert frame == Frame(*source, (0, 0, *source))


@given(width=st.integers(1, 300), height=st.integers(1, 300), size=inputs, fit=fits)
@settings(deadline=None, max_examples=50)
def test_what_is_resized_already_is_seen_alike(
    width: int, height: int, size: tuple[int, int], fit: str
) -> None:
    assume(size[0] * size[1] < 50_000)
    preprocess = Preprocess(size, MEAN, STD, fit)
    image = noise(width, height)
    resized = preprocess.resized(image)
    assert resized.size == (size[1], size[0])
    assert torch.equal(preprocess(resized)[0], preprocess(image)[0])


def reference(size: int, interpolation: str) -> v2.Transform:
    """What timm builds for evaluation with crop_pct 1."""
    mode = v2.InterpolationMode[interpolation.upper()]
    steps = [v2.Resize(size, mode), v2.CenterCrop(size), v2.PILToTensor()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("source", [(448, 224), (224, 448), (896, 448), (640, 427), (333, 500)])
def test_crop_equals_torchvision(interpolation: str, source: tuple[int, int]) -> None:
    """To one grey level, and that seldom: ours resizes what is seen, theirs resizes all and then crops."""
    image = noise(*source)
    pixels, _ = Preprocess((224, 224), MEAN, STD, "crop", interpolation)(image)
    difference = (pixels - reference(224, interpolation)(image)).abs() * torch.tensor(STD).view(
        3, 1, 1
    )
    assert difference.max() * 255 <= 1.01
    assert (difference * 255 > 0.01).float().mean() < 0.01


@given(width=st.integers(1, 300), height=st.integers(1, 300), size=inputs, fit=fits)
@settings(deadline=None, max_examples=50)
def test_preprocess_takes_every_size(
    width: int, height: int, size: tuple[int, int], fit: str
) -> None:
    assume(size[0] * size[1] < 50_000)
    pixels, frame = Preprocess(size, MEAN, STD, fit)(Image.new("RGB", (width, height), RED))
    expected = (torch.tensor([1.0, 0, 0]) - torch.tensor(MEAN)) / torch.tensor(STD)
    assert pixels.shape == (3, *size)
    assert torch.allclose(pixels, expected.view(3, 1, 1).expand_as(pixels), atol=1e-6)
    assert (frame.width, frame.height) == (width, height)


@pytest.mark.parametrize(
    ("field", "value"), [("fit", "stretch"), ("interpolation", "sinc"), ("size", (0, 224))]
)
def test_preprocess_refuses(field: str, value: object) -> None:
    values = {"size": (224, 224), "mean": MEAN, "std": STD, field: value}
    with pytest.raises(ValueError, match=r"fit|interpolation|size"):
        Preprocess(**values)
