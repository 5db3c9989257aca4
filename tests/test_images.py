"""Any bad or odd image is handled right or named in one sentence, and the model's pixels lie where the Frame says."""

from __future__ import annotations

import io
import os
import shutil
import struct
import sys
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
from PIL import ExifTags, Image, features
from torchvision.transforms import v2

from vlm.images import Frame, ImageError, Preprocess, load_image
from vlm.images.decode import MAX_PIXELS
from vlm.images.files import FORMATS
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


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(width: int, height: int, depth: int, colour: int, rows: bytes, more: bytes = b"") -> bytes:
    """A PNG written by hand: depths and sizes that PIL does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(
    levels: np.ndarray,
    photometric: int = 1,
    order: str = "<",
    planes: bool = False,
    compressed: bool = False,
    bits: int | None = None,
    extra: int | None = None,
    premade: bytes | None = None,
    palette: list[int] | None = None,
) -> bytes:
    """A TIFF written by hand, in one strip or in one a plane: kinds that PIL does not write."""
    height, width = levels.shape[:2]
    bands = 1 if levels.ndim == 2 else levels.shape[2]
    levels = levels.astype(levels.dtype.newbyteorder(order)).reshape(height, width, bands)
    strips = [levels[:, :, i] for i in range(bands)] if planes else [levels]
    data = [premade or strip.tobytes() for strip in strips]
    data = [zlib.compress(strip) for strip in data] if compressed else data
    starts = [8 + sum(map(len, data[:i])) for i in range(len(data))]
    kind = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    tags = [
        *((256, "H", [width]), (257, "H", [height])),
        (258, "H", [bits or levels.dtype.itemsize * 8] * bands),
        *((259, "H", [8 if compressed else 1]), (262, "H", [photometric])),
        *((273, "I", starts), (277, "H", [bands]), (278, "H", [height])),
        *((279, "I", [len(strip) for strip in data]), (284, "H", [2 if planes else 1])),
        *([(320, "H", palette)] if palette is not None else []),
        *([(338, "H", [extra])] if extra is not None else []),
        (339, "H", [kind] * bands),
    ]
    place = 8 + sum(map(len, data)) + 2 + 12 * len(tags) + 4
    entries, outside = b"", b""
    for tag, form, values in tags:
        value = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(value) > 4:
            place, outside, value = (
                place + len(value),
                outside + value,
                struct.pack(f"{order}I", place),
            )
        code = {"H": 3, "I": 4}[form]
        entries += struct.pack(f"{order}HHI", tag, code, len(values)) + value.ljust(4, b"\0")
    start = 8 + sum(map(len, data))
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, start)
    count = struct.pack(f"{order}H", len(tags))
    return head + b"".join(data) + count + entries + bytes(4) + outside


def problem(source: object) -> str:
    """The sentence that says why an image cannot be read."""
    with pytest.raises(ImageError) as raised:
        load_image(source)
    sentence = str(raised.value)
    assert sentence
    assert "\n" not in sentence
    assert " at 0x" not in sentence
    return sentence


def close(actual: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 3) -> bool:
    return max(abs(a - b) for a, b in zip(actual, expected, strict=True)) <= tolerance


def row(source: object) -> list[tuple[int, ...]]:
    """The colours of a picture of one row."""
    image = load_image(source)
    return [image.getpixel((x, 0)) for x in range(image.width)]


def greys(source: object) -> list[int]:
    assert all(r == g == b for r, g, b in row(source))
    return [r for r, _, _ in row(source)]


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
    ("content", "says"),
    [
        (b"", "is empty (0 bytes)"),
        (b"hello, this is text\n" * 9, "is not an image that can be read"),
        (b"%PDF-1.7\n", "is not an image that can be read"),
        (b"<svg xmlns='...'></svg>", "is not an image that can be read"),
        (b"\0" * 64, "is not an image that can be read"),
        (b"\xff\xd8", "may be damaged or truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "may be damaged or truncated"),
        (b"II*\0\x08\0\0\0" + bytes(30), "is a TIFF of a kind that cannot be read, or damaged"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90), "may be damaged or truncated"),
        (encoded(quarters(), "EPS"), "is not an image that can be read"),  # would run Ghostscript
    ],
)
def test_what_is_no_image(content: bytes, says: str, tmp_path: Path) -> None:
    if b"heic" in content:
        pytest.importorskip("pillow_heif")
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert says in problem(path)
    assert str(path) in problem(path)
    assert problem(content).startswith("the image ")


@pytest.mark.parametrize("source", [None, 3, 2.5, ["photo.jpg"], torch.zeros(3, 4, 4)])
def test_sources_of_other_types(source: object) -> None:
    assert type(source).__name__ in problem(source)


def test_paths_that_lead_to_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem(tmp_path / "no.jpg") == f"{tmp_path / 'no.jpg'}: no such file"
    assert problem(tmp_path) == f"{tmp_path} is a folder, not an image"
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in problem(tmp_path / "pipe")  # and does not wait for its other end
    for name in ("x" * 5_000, "a\0b", ""):
        problem(name)
    assert "address on the web" in problem("https://example.org/photo.jpg")
    monkeypatch.chdir(tmp_path)
    Path("https:").mkdir()
    quarters().save("https:/photo.png")
    assert load_image("https://photo.png").size == (64, 32)


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


# Damage

WRITTEN = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "TGA")


@pytest.mark.parametrize("kind", WRITTEN)
def test_half_a_file_is_refused(kind: str, tmp_path: Path) -> None:
    whole = encoded(noise(64, 48), kind)
    half = whole[: len(whole) // 2]
    path = tmp_path / "half"
    path.write_bytes(half)
    assert str(path) in problem(path)
    assert problem(half).startswith("the image ")
    with suppress(OSError):
        problem(Image.open(io.BytesIO(half)))  # PIL opens lazily: the header is fine


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_files_load_or_say_so(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(WRITTEN))
    tags = {"exif": exif(6)} if kind in ("JPEG", "PNG", "WEBP") else {}
    content = bytearray(encoded(quarters(16, 8), kind, **tags))
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    del content[data.draw(places | st.just(len(content))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:  # no other exception may leave load_image, and what it returns is whole
            assert np.asarray(load_image(bytes(content))).shape[2] == 3
        except ImageError as error:
            said = str(error)
        else:
            said = ""
    assert " at 0x" not in said


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_may_lack_its_end_marker_but_no_pixels(
    mode: str, options: dict[str, object]
) -> None:
    content = encoded(noise(50, 40).convert(mode), "JPEG", **options)
    for missing in (1, 2):
        assert load_image(content[:-missing]) == load_image(content)
    for missing in (*range(3, 20), 200, len(content) // 2):
        with suppress(ImageError):  # as nearly always, or what is missing decides nothing
            assert load_image(content[:-missing]) == load_image(content)
    assert "truncated" in problem(content[:-200])


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node graph " * 120_000)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"node graph " * 120_000)),
        chunk(b"iCCP", b"screen\0\0" + zlib.compress(bytes(1_200_000))),
        chunk(b"tEXt", b"prompt\0" + b"a dog " * 170_000) * 66,
        chunk(b"tEXt", b"prompt\0a dog")[:-1] + b"?",  # a wrong checksum
        chunk(b"pHYs", b"?"),
    ],
    ids=["zTXt", "iTXt", "iCCP", "many", "damaged", "short"],
)
def test_metadata_of_a_png_says_nothing_against_its_pixels(metadata: bytes) -> None:
    turned = encoded(STORED[6](quarters()), "PNG", exif=exif(6))
    for place in (33, len(turned) - 12):  # behind the header, and in front of the end
        image = load_image(turned[:place] + metadata + turned[place:])
        assert colours(image) == [RED, GREEN, BLUE, WHITE]


# Sizes


def test_sizes_beyond_the_limit_are_refused_before_they_are_decoded() -> None:
    bomb = png(20_000, 20_000, 1, 0, bytes(20_000 * 2_501))
    assert len(bomb) < 60_000  # bytes, for 400 megapixels
    assert "too large" in problem(bomb)
    assert "too large" in problem(np.broadcast_to(np.uint8(0), (1, 70_000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PIL warns at a limit of its own
        for width, height in ((12_000, 10_001), (70_000, 2), (2, 70_000)):
            assert f"{width:,} x {height:,}" in problem(png(width, height, 8, 2, b""))
        # A phone's 108 megapixels pass, so that it is the missing data that is told.
        assert MAX_PIXELS >= 12_000 * 9_000
        assert "truncated" in problem(png(12_000, 9_000, 8, 2, b""))


# Sources, formats and modes


def test_all_forms_of_a_source_agree_and_stay_as_they_are(tmp_path: Path) -> None:
    picture = noise(12, 7)
    path = tmp_path / "photo.png"
    picture.save(path)
    content = path.read_bytes()
    forms = [path, str(path), content, bytearray(content), memoryview(content), picture]
    for source in [*forms, np.asarray(picture), Image.open(path)]:
        image = load_image(source)
        assert np.array_equal(np.asarray(image), np.asarray(picture))
        image.paste(0, (0, 0, 12, 7))
    assert picture == noise(12, 7)


def test_what_was_loaded_is_not_copied_again() -> None:
    once = load_image(encoded(STORED[6](quarters()), "JPEG", exif=exif(6)))
    assert load_image(once) is once
    smaller = once.resize((32, 16))
    assert load_image(smaller) is smaller
    glass = once.copy()
    glass.putalpha(0)
    assert colours(load_image(glass)) == [WHITE] * 4


@pytest.mark.parametrize("suffix", [suffix for of in FORMATS.values() for suffix in of])
def test_colours_of_every_kind_of_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    (kind,) = (kind for kind, suffixes in FORMATS.items() if suffix in suffixes)
    picture = quarters()
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(picture).save(path)
    elif suffix in (".pgm", ".pbm", ".pfm"):
        picture = picture.convert("1" if suffix == ".pbm" else "L")
        picture.convert("F" if suffix == ".pfm" else picture.mode).save(path, kind)
    else:
        picture.save(path, kind, **({"sizes": [(64, 32)]} if kind == "ICO" else {}))
    image = load_image(path)
    assert image.mode == "RGB"
    for actual, expected in zip(colours(image), colours(picture.convert("RGB"))):
        assert close(actual, expected, 8)


def test_heic_without_its_package_is_told_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    sentence = problem(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90))
    assert "pillow-heif" in sentence
    assert "[heif]" in sentence


MODES = ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]


@pytest.mark.parametrize("mode", [*MODES, "I", "F"])
def test_every_mode_of_pil(mode: str) -> None:
    black_and_white = Image.new("RGB", (2, 1))
    black_and_white.putpixel((1, 0), WHITE)
    through = {"RGBa": "RGBA", "PA": "P"}.get(mode, mode)
    black, white = row(black_and_white.convert(through).convert(mode))
    assert close(black, (0, 0, 0))
    assert close(white, WHITE)


def test_cmyk_and_jpegs_in_which_it_is_inverted() -> None:
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # full magenta and yellow print red
    assert load_image(ink).getpixel((4, 4)) == RED
    assert close(load_image(encoded(ink, "JPEG", quality=95)).getpixel((4, 4)), RED)
    for planes in (False, True):
        for levels in (np.asarray(ink), np.asarray(ink).astype(np.uint16) * 257):
            image = load_image(tiff(levels, 5, planes=planes))
            assert close(image.getpixel((4, 4)), RED, 1)


GLASS = Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [255, 0, 0, 51]]], np.uint8))
PALETTE = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
PALETTE.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])


def grey_png(depth: int, levels: list[int], clear: int) -> bytes:
    packed = sum(level << depth * i for i, level in enumerate(reversed(levels)))
    rows = b"\0" + packed.to_bytes(depth * len(levels) // 8)
    return png(len(levels), 1, depth, 0, rows, chunk(b"tRNS", struct.pack(">H", clear)))


def colour_png(levels: list[tuple[int, int, int]], clear: tuple[int, int, int]) -> bytes:
    rows = b"\0" + b"".join(struct.pack(">3H", *level) for level in levels)
    return png(len(levels), 1, 16, 2, rows, chunk(b"tRNS", struct.pack(">3H", *clear)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(GLASS, "PNG"), [RED, WHITE, (255, 204, 204)]),
        (encoded(GLASS, "WEBP", lossless=True, exact=True), [RED, WHITE, (255, 204, 204)]),
        (encoded(GLASS, "TIFF"), [RED, WHITE, (255, 204, 204)]),
        (encoded(GLASS, "TGA"), [RED, WHITE, (255, 204, 204)]),
        (encoded(PALETTE, "PNG", transparency=1), [RED, WHITE, BLUE]),
        (encoded(PALETTE, "PNG", transparency=b"\xff\0\x33"), [RED, WHITE, (204, 204, 255)]),
        (encoded(PALETTE, "GIF", transparency=1), [RED, WHITE, BLUE]),
        (encoded(PALETTE.convert("RGB"), "PNG", transparency=GREEN), [RED, WHITE, BLUE]),
        (grey_png(2, [0, 1, 2, 3], 1), [(0,) * 3, WHITE, (170,) * 3, WHITE]),
        (grey_png(4, [0, 5, 10, 0], 10), [(0,) * 3, (85,) * 3, WHITE, (0,) * 3]),
        (grey_png(8, [0, 85, 170], 85), [(0,) * 3, WHITE, (170,) * 3]),
        (grey_png(16, [0, 0x1234, 0x1235], 0x1234), [(0,) * 3, WHITE, (0x12,) * 3]),
        (colour_png([(65535, 0, 0), (0x1234, 0, 0)], (0x1234, 0, 0)), [RED, WHITE]),
        (png(1, 1, 16, 4, b"\0" + struct.pack(">2H", 0, 0)), [WHITE]),
        # Its fourth channel is zero all over, as where it is not used.
        (encoded(Image.new("RGBA", (2, 1), (*RED, 0)), "TGA"), [RED, RED]),
    ],
)
def test_transparency_is_laid_on_white(content: bytes, expected: list[tuple[int, ...]]) -> None:
    assert row(content) == expected


# Levels of more than 8 bits

DEEP = [0, 200, 32_768, 65_535]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(Image.fromarray(np.array([DEEP], np.uint16)), "PNG"), [0, 0, 128, 255]),
        (encoded(Image.fromarray(np.array([DEEP], np.uint16)), "TIFF"), [0, 0, 128, 255]),
        (png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 200, 65_535, 32_768, 65_535)), [0, 128]),
        (png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 32_768, 32_768, 32_768)), [128]),
        (b"P5 3 1 65535\n" + struct.pack(">3H", 0, 200, 32_768), [0, 1, 128]),  # PIL's own scale
        (b"P5 3 1 4095\n" + struct.pack(">3H", 0, 12, 4_095), [0, 1, 255]),
        (b"P5 1 1 65535\n" + struct.pack(">H", 200), [1]),  # a dark scene stays dark
        (b"P6 1 1 1023\n" + struct.pack(">3H", 512, 512, 512), [128]),
    ],
)
def test_levels_of_16_bits(content: bytes, expected: list[int]) -> None:
    """PIL's own conversion clips at 255, which makes nearly all of a 16-bit picture white."""
    assert greys(content) == pytest.approx(expected, abs=1)


PICTURE = np.asarray(noise(9, 6))
GREY = np.ascontiguousarray(PICTURE[:, :, 0])


def scaled(levels: np.ndarray, kind: str) -> np.ndarray:
    """Levels of 8 bits as the full range of another type."""
    top = 1.0 if kind[0] == "f" else np.iinfo(kind).max
    return (levels / 255 * top).round(0 if top > 1 else 9).astype(kind)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "f2", "f4", "f8"])
def test_grey_tiffs(kind: str, photometric: int, order: str, compressed: bool) -> None:
    """The right pixels, or a refusal: white may be the level 0, bytes may be in either order, levels of any type."""
    levels = scaled(255 - GREY if photometric == 0 else GREY, kind)
    content = tiff(levels, photometric, order, compressed=compressed)
    read = {"u1", "u2", "f4"} | ({"u4", "i2", "i4"} if (photometric, order) == (1, "<") else set())
    if photometric == 1:
        read |= {"i2", "i4"}
    elif order == ">":
        read -= {"u2"}
    if kind in read:
        seen = np.asarray(load_image(content))[:, :, 0].astype(int)
        assert np.abs(seen - GREY).max() <= 1
    else:
        assert "8 bits" in problem(content)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_colour_tiffs(
    kind: str, extra: int | None, planes: bool, order: str, compressed: bool
) -> None:
    """Of 8 and 16 bits, their planes apart or not, with a fourth that is no alpha, premultiplied or plain."""
    levels, expected = scaled(PICTURE, kind), PICTURE.astype(int)
    if extra is not None:
        alpha = scaled(np.full(GREY.shape, 51), kind)
        if extra == 1:
            levels = scaled(PICTURE // 5, kind)
            expected = PICTURE // 5 + 204
        elif extra == 2:
            expected = PICTURE // 5 + 204
        levels = np.dstack([levels, alpha])
    content = tiff(levels, 2, order, planes, compressed, extra=extra)
    if (kind, extra, planes, compressed) == ("u1", 0, True, False):  # Pillow opens all but this
        assert "a TIFF of a kind that cannot be read" in problem(content)
        return
    seen = load_image(content)
    assert np.abs(np.asarray(seen).astype(int) - expected).max() <= 4


def test_other_tiffs() -> None:
    twelve = np.array([[0, 200, 2_048, 4_095]], np.uint16)
    packed = sum(int(v) << 12 * i for i, v in enumerate(twelve[0, ::-1])).to_bytes(6)
    assert greys(tiff(twelve, bits=12, premade=packed)) == [0, 12, 128, 255]
    alpha = np.dstack([GREY, np.full_like(GREY, 255)])
    assert np.array_equal(np.asarray(load_image(tiff(alpha, extra=2)))[:, :, 0], GREY)
    for compressed in (False, True):
        content = tiff(alpha, planes=True, compressed=compressed, extra=2)
        assert "channels of LA in planes of their own" in problem(content)
        content = tiff(PICTURE, 8, planes=True, compressed=compressed)
        assert "channels of LAB in planes of their own" in problem(content)
    lab = np.asarray(noise(9, 6).convert("LAB"))
    seen = np.asarray(load_image(tiff(lab, 8))).astype(int)
    assert np.abs(seen - PICTURE).mean() < 4
    for full in (1, 257):  # colours of 16 bits, or by mistake of 8
        palette = [*range(0, 256 * full, full)] * 3
        seen = load_image(tiff(GREY, 3, palette=palette))
        assert np.array_equal(np.asarray(seen)[:, :, 0], GREY)
    for levels in (scaled(PICTURE, "f4"), scaled(PICTURE, "i2"), np.dstack([GREY] * 7)):
        assert "a TIFF of a kind that cannot be read" in problem(tiff(levels, 2))


@pytest.mark.parametrize("kind", ["f4", "i4"])
@pytest.mark.parametrize("top", [1, 1.3, 20, 130, 255, 260, 4_095, 65_535, 1e6, 2**31 - 1])
def test_levels_of_32_bits(top: float, kind: str) -> None:
    """Wherever white lies, black is black and the largest level no darker than grey."""
    if kind == "i4" and top != int(top):
        pytest.skip("whole numbers")
    values = np.array([[0, top / 2, top, 0, -0.01 * top]], dtype=kind)
    if kind == "f4":
        values[0, 3] = np.nan
    seen = greys(tiff(values))
    assert seen[2] >= 127
    assert [seen[0], seen[3], seen[4]] == [0, 0, 0]
    if top > 1 or kind == "f4":
        assert seen[1] == pytest.approx(seen[2] / 2, abs=1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([-1.0, 0.0, 1.0], "from -1 to 1"),
        ([-9999.0, 812.5], "from -9999 to 812.5"),
        ([np.nan, np.inf], "no level that is a number"),
    ],
)
def test_levels_that_are_no_pictures(values: list[float], says: str) -> None:
    assert says in problem(tiff(np.array([values], np.float32)))
    assert greys(tiff(np.array([[0, 0.5, np.inf, -np.inf, 0]], np.float32))) == [0, 128, 255, 0, 0]


# Frames of an animation


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame_or_that_which_the_caller_chose(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    opened = Image.open(io.BytesIO(content))
    assert opened.n_frames == 3
    assert close(load_image(content).getpixel((0, 0)), RED)
    opened.seek(1)
    assert close(load_image(opened).getpixel((0, 0)), GREEN)
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
    0: lambda image: image,  # no orientation that there is
    9: lambda image: image,
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied_once(orientation: int, kind: str) -> None:
    image = load_image(encoded(STORED[orientation](quarters()), kind, exif=exif(orientation)))
    for picture in (image, load_image(image), load_image(encoded(image, "PNG"))):
        assert picture.size == (64, 32)
        for actual, expected in zip(colours(picture), [RED, GREEN, BLUE, WHITE]):
            assert close(actual, expected, 12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "content", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0M"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exif_that_cannot_be_read_is_ignored(kind: str, content: bytes) -> None:
    assert load_image(encoded(quarters(), kind, exif=content)).size == (64, 32)


# Arrays


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", ">u2", "float16", "float32", "float64", "bool"]
)
def test_arrays(shape: tuple[int, ...], dtype: str) -> None:
    full = {"uint8": 255, "uint16": 65_535, ">u2": 65_535}.get(dtype, 1)
    array = np.full(shape, full, dtype=dtype)
    array[:, :3] = 0
    if dtype != "bool":
        array[:, 3] = full / 2 if full == 1 else (full + 1) // 2
    if shape[-1] == 4:
        array[..., 3] = full
        array[0, 4] = 0  # clear
    image = load_image(array[::-1])  # whose rows do not follow each other in memory
    assert image.size == (6, 4)
    half = WHITE if dtype == "bool" else (128, 128, 128)
    assert [image.getpixel((x, 3)) for x in (0, 3, 4)] == [(0, 0, 0), half, WHITE]


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


# Frame and Preprocess

sides = st.integers(1, 6_000)
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
@example(width=1, height=1, size=(32, 48), fit="crop")
@example(width=1, height=5_000, size=(32, 48), fit="crop")
@example(width=5_000, height=1, size=(32, 48), fit="squash")
@settings(deadline=None, max_examples=50)
def test_preprocess_takes_every_size_and_its_own_result(
    width: int, height: int, size: tuple[int, int], fit: str
) -> None:
    assume(size[0] * size[1] < 50_000)
    preprocess = Preprocess(size, MEAN, STD, fit)
    pixels, frame = preprocess(Image.new("RGB", (width, height), RED))
    expected = (torch.tensor([1.0, 0, 0]) - torch.tensor(MEAN)) / torch.tensor(STD)
    assert pixels.shape == (3, *size)
    assert torch.allclose(pixels, expected.view(3, 1, 1).expand_as(pixels), atol=1e-6)
    assert (frame.width, frame.height) == (width, height)
    image = noise(width, height)
    resized = preprocess.resized(image)
    assert resized.size == (size[1], size[0])
    assert torch.equal(preprocess(resized)[0], preprocess(image)[0])


@pytest.mark.parametrize(
    ("field", "value"), [("fit", "stretch"), ("interpolation", "sinc"), ("size", (0, 224))]
)
def test_preprocess_refuses(field: str, value: object) -> None:
    values = {"size": (224, 224), "mean": MEAN, "std": STD, field: value}
    with pytest.raises(ValueError, match=r"fit|interpolation|size"):
        Preprocess(**values)
