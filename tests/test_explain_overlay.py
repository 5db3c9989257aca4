"""A planted patch shows in its pixel box: the heat's maximum, and the brightest spot of the picture."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from vlm.explain.maps import WordMap
from vlm.explain.method import Choice
from vlm.explain.overlay import MAX_SIDE, heat, overlay, sheet
from vlm.explain.raw_attention import raw_attention
from vlm.images import Frame, Preprocess, load_image
from vlm.model.config import DecoderConfig, ModelConfig, VisionConfig
from vlm.model.memory import image_memory
from vlm.model.model import VisionLanguageModel

MEAN = STD = (0.5, 0.5, 0.5)


def planted(grid: tuple[int, int], row: int, column: int, base: float = 0.0) -> WordMap:
    """A word that attends to one patch, and to the others `base` as much."""
    weights = torch.full(grid, base)
    weights[row, column] = 1
    return WordMap("dog", "caption", weights / weights.sum())


def preprocess(fit: str, size: tuple[int, int] = (32, 48)) -> Preprocess:
    return Preprocess(size, MEAN, STD, fit)


def grey(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, (128, 128, 128))


def brightness(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), dtype=np.int64)


def patch_box(
    frame: Frame, row: int, column: int, grid: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The `(left, top, right, bottom)` of a patch, in pixels of the photo."""
    left, top, right, bottom = frame.box
    height, width = (bottom - top) / grid[0], (right - left) / grid[1]
    x, y = left + column * width, top + row * height
    return x, y, x + width, y + height


def assert_peak(
    values: np.ndarray, frame: Frame, grid: tuple[int, int], row: int, column: int
) -> None:
    """The maximum of `(H, W)` values over the image, or over a smaller copy of it, is a pixel of the patch's box."""
    height, width = values.shape
    y, x = np.unravel_index(np.nanargmax(values), values.shape)
    left, top, right, bottom = patch_box(frame, row, column, grid)
    across, down = width / frame.width, height / frame.height
    assert left * across - 1 < x < right * across
    assert top * down - 1 < y < bottom * down


grids = st.tuples(st.integers(1, 24), st.integers(1, 24))
fits = st.sampled_from(["squash", "crop"])


# Planted answers


@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    grid=grids,
    fit=fits,
    base=st.floats(0, 0.95),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_heat_peaks_in_the_planted_patch(
    size: tuple[int, int], grid: tuple[int, int], fit: str, base: float, data: st.DataObject
) -> None:
    """For every size, wide, tall and smaller than the grid."""
    row, column = data.draw(st.integers(0, grid[0] - 1)), data.draw(st.integers(0, grid[1] - 1))
    frame = preprocess(fit).frame(*size)
    values = heat(frame, planted(grid, row, column, base))
    assert values.shape == (size[1], size[0])
    assert_peak(values, frame, grid, row, column)


@given(
    size=st.tuples(st.integers(30, 300), st.integers(30, 300)),
    grid=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    fit=fits,
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_brightest_spot_of_the_picture_is_in_the_planted_patch(
    size: tuple[int, int], grid: tuple[int, int], fit: str, data: st.DataObject
) -> None:
    row, column = data.draw(st.integers(0, grid[0] - 1)), data.draw(st.integers(0, grid[1] - 1))
    frame = preprocess(fit).frame(*size)
    picture = overlay(grey(size), frame, planted(grid, row, column), legend=False)
    assert picture.size == size
    seen = ~np.isnan(heat(frame, planted(grid, row, column)))
    assert_peak(np.where(seen, brightness(picture), -1), frame, grid, row, column)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photo(orientation: int) -> None:
    """A white sign on a photo that a camera stored turned: the word that attends to it lights the sign up."""
    grid, row, column = (4, 6), 1, 4
    upright = Image.new("RGB", (120, 80))
    frame = preprocess("squash").frame(120, 80)
    upright.paste((255, 255, 255), tuple(int(edge) for edge in patch_box(frame, row, column, grid)))
    # The tag of the turn that undoes the turn by which this one is stored.
    turns = [
        *(None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180),
        *(Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90),
        *(Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270),
    ]
    turn = turns[orientation - 1]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)

    photo = load_image(file.getvalue())
    frame = preprocess("squash").frame(*photo.size)
    word = planted(grid, row, column)
    picture = overlay(photo, frame, word, legend=False)
    assert picture.size == (120, 80)
    assert_peak(heat(frame, word), frame, grid, row, column)
    y, x = np.unravel_index(brightness(picture).argmax(), (80, 120))
    assert photo.getpixel((int(x), int(y))) == (255, 255, 255)


@pytest.mark.parametrize(
    ("encoder", "size"),
    [("test_vit", (48, 80)), ("test_efficientnet", (96, 160)), ("test_convnext", (96, 160))],
)
@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("picture", [(300, 90), (90, 300)])
def test_model_that_attends_to_a_patch(
    encoder: str, size: tuple[int, int], fit: str, picture: tuple[int, int]
) -> None:
    """From a photo's bytes to the picture, with a decoder whose queries find whatever fills the first channel."""
    config = ModelConfig(
        VisionConfig(encoder, preprocess(fit, size)),
        DecoderConfig(vocab_size=20, width=16, depth=2, heads=2, memory_width=16),
    )
    torch.manual_seed(0)
    model = VisionLanguageModel(config).eval()
    with torch.no_grad():
        for sublayer in model.decoder.sublayers:
            if sublayer.kind == "c":
                sublayer.body.query.weight.zero_()
                sublayer.body.query.bias.fill_(1)
                sublayer.body.key_value.weight[:16].zero_()
                sublayer.body.key_value.weight[:16, 0] = 1

    file = io.BytesIO()
    grey(picture).save(file, "PNG")
    photo = load_image(file.getvalue())
    pixels, frame = model.config.vision.preprocess(photo)
    memory = model.encode(pixels[None])
    grid = memory.image.grid
    assert grid is not None
    assert min(grid) > 1
    for row in range(grid[0]):
        for column in range(grid[1]):
            tokens = torch.zeros_like(memory.tokens)
            tokens[0, row * grid[1] + column, 0] = 10
            looked = image_memory(tokens, grid)
            text = SimpleNamespace(
                model=model,
                question=None,
                memory=looked,
                projected=model.project(looked),
                sequence=torch.tensor([[2, 7, 5]]),
                rows=[0, 0, 1],
            )
            with torch.inference_mode():
                looks, _ = raw_attention(text, Choice())
            for weights in looks.patches:
                word = WordMap("dog", "caption", weights)
                assert_peak(heat(frame, word), frame, grid, row, column)
    shown = brightness(overlay(photo, frame, word, legend=False))
    shown[np.isnan(heat(frame, word))] = -1
    assert_peak(shown, frame, grid, row, column)


# Heat between and outside of patches


@given(grid=grids, seed=st.integers(0, 99))
@settings(deadline=None)
def test_heat_between_patches_stays_between_their_values(grid: tuple[int, int], seed: int) -> None:
    weights = torch.rand(grid, generator=torch.Generator().manual_seed(seed)) + 0.01
    multiples = (weights / weights.mean()).numpy()
    frame = preprocess("squash").frame(grid[1] * 11, grid[0] * 11)
    values = heat(frame, WordMap("dog", "caption", weights))
    assert values.min() >= multiples.min() - 1e-4
    assert values.max() <= multiples.max() + 1e-4
    # Patches of 11 x 11 pixels have a pixel at their centre.
    np.testing.assert_allclose(values[5::11, 5::11], multiples, rtol=1e-4)


def test_even_attention_is_even_heat() -> None:
    frame = preprocess("crop").frame(50, 40)
    values = heat(frame, WordMap("a", "caption", torch.full((3, 4), 1 / 12)))
    np.testing.assert_allclose(values[~np.isnan(values)], 1, rtol=1e-5)


@pytest.mark.parametrize("size", [(200, 60), (60, 200)])
def test_no_heat_where_the_model_did_not_look(size: tuple[int, int]) -> None:
    frame = preprocess("crop", (32, 32)).frame(*size)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    photo = Image.fromarray(noise)
    left = overlay(photo, frame, planted((2, 2), 0, 0), legend=False)
    right = overlay(photo, frame, planted((2, 2), 1, 1), legend=False)
    unseen = np.isnan(heat(frame, planted((2, 2), 0, 0)))
    assert unseen.mean() == pytest.approx(0.7, abs=0.02)  # the crop is of whole pixels
    differ = (np.asarray(left) != np.asarray(right)).any(axis=-1)
    assert not differ[unseen].any()
    assert differ[~unseen].mean() > 0.7
    # Faded: pale and without colour.
    pale = np.asarray(left, dtype=np.int64)[unseen]
    assert pale.min() > 150
    assert np.ptp(pale, axis=-1).max() == 0


def test_brightness_rises_with_attention() -> None:
    """The scale can be read without seeing colours."""
    weights = torch.linspace(0, 1, 40)[None]
    frame = preprocess("squash").frame(400, 10)
    line = brightness(
        overlay(grey((400, 10)), frame, WordMap("a", "caption", weights), legend=False)
    )
    assert (np.diff(line[5, 5::10]) >= 0).all()
    assert line[5, -1] - line[5, 0] > 100


def test_nearly_even_attention_does_not_look_like_a_peak() -> None:
    frame = preprocess("squash").frame(60, 60)
    faint = brightness(overlay(grey((60, 60)), frame, planted((3, 3), 1, 1, 0.9), legend=False))
    strong = brightness(overlay(grey((60, 60)), frame, planted((3, 3), 1, 1, 0.1), legend=False))
    assert faint.max() < strong.max() - 40


# Pictures


@pytest.mark.parametrize(
    "size", [(1, 1), (32, 32), (500, 20), (20, 500), (1, 5_000), (1_600, 300), (6_000, 40)]
)
def test_picture_keeps_the_size_up_to_a_limit(size: tuple[int, int]) -> None:
    frame = preprocess("squash").frame(*size)
    bare = overlay(grey(size), frame, planted((2, 3), 0, 1), legend=False)
    factor = min(1, MAX_SIDE / max(size))
    assert bare.size == tuple(max(1, round(side * factor)) for side in size)
    framed = overlay(grey(size), frame, planted((2, 3), 0, 1))
    assert framed.width >= bare.width
    assert framed.height > bare.height


def ink(picture: Image.Image) -> np.ndarray:
    """Where it is as dark as text on paper."""
    return np.asarray(picture.convert("L")) < 60


@pytest.mark.parametrize("side", [32, 224, 640, 2_000, 6_000])
def test_word_is_written_large_enough_to_read(side: int) -> None:
    """The word's tall letters are at least 10 pixels high, and a fiftieth of the photo's side."""
    size = (side, side // 4)
    frame = preprocess("squash").frame(*size)
    white = Image.new("RGB", size, "white")
    word, other = (WordMap(text, "caption", torch.ones(1, 1)) for text in ("", "dill"))
    empty, written = overlay(white, frame, word), overlay(white, frame, other)
    rows = np.flatnonzero((ink(written) & ~ink(empty)).any(axis=1))
    tall = np.ptp(rows) + 1
    assert tall >= 10
    assert tall >= min(side, MAX_SIDE) / 50


@pytest.mark.parametrize("text", ["x" * 500, "été", "собака", "a\nb", "", "🐕"])
def test_any_text_fits(text: str) -> None:
    frame = preprocess("squash").frame(100, 60)
    words = [WordMap(text, "caption", torch.ones(2, 2)), WordMap("b", "caption", torch.ones(2, 2))]
    assert overlay(grey((100, 60)), frame, words[0]).width < 400
    assert sheet(grey((100, 60)), frame, words).width < 1_000


def test_letters_beyond_english_have_shapes_of_their_own() -> None:
    frame = preprocess("squash").frame(200, 100)
    pictures = {
        overlay(grey((200, 100)), frame, WordMap(text, "caption", torch.ones(1, 1))).tobytes()
        for text in ("é", "ß", "ж", "λ", "ñ")
    }
    assert len(pictures) == 5


def changed(one: Image.Image, other: Image.Image) -> tuple[slice, slice]:
    """The box in which two pictures differ."""
    assert one.size == other.size
    differ = (np.asarray(one) != np.asarray(other)).any(axis=-1)
    rows, columns = np.flatnonzero(differ.any(axis=1)), np.flatnonzero(differ.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@pytest.mark.parametrize("size", [(300, 300), (600, 200), (100, 400)])
def test_sheet_shows_every_map(size: tuple[int, int]) -> None:
    """Moving one word's attention changes its cell alone, and cells do not overlap."""
    frame = preprocess("squash").frame(*size)
    roles = ["question"] * 5 + ["answer"] * 2
    words = [WordMap(f"w{i}", role, planted((2, 2), 0, 0).weights) for i, role in enumerate(roles)]
    before = sheet(grey(size), frame, words)
    taken = np.zeros((before.height, before.width), dtype=bool)
    for i, word in enumerate(words):
        moved = WordMap(word.text, word.role, planted((2, 2), 1, 1).weights)
        cell = changed(before, sheet(grey(size), frame, [*words[:i], moved, *words[i + 1 :]]))
        assert not taken[cell].any()
        taken[cell] = True


def test_a_word_that_language_alone_wrote_has_a_grey_photo_in_place_of_its_map() -> None:
    frame = preprocess("squash").frame(300, 300)
    words = [planted((2, 2), 0, 0), planted((2, 2), 0, 0)]
    moved = [words[0], planted((2, 2), 1, 1)]
    one, other = (sheet(grey((300, 300)), frame, maps, alone={1}) for maps in (words, moved))
    assert one.tobytes() == other.tobytes()
    cell = changed(one, sheet(grey((300, 300)), frame, words))
    inside = np.asarray(one)[cell][80:-10, 10:-10].astype(int)
    assert (np.ptp(inside, axis=2) == 0).all()


def test_sheet_has_one_scale() -> None:
    """A weak map next to a strong one stays dim; alone it would fill the scale."""
    frame = preprocess("squash").frame(100, 100)
    strong, weak = planted((5, 5), 2, 2), planted((5, 5), 2, 2, 0.2)
    moved = planted((5, 5), 0, 0, 0.2)
    before = sheet(grey((100, 100)), frame, [strong, weak])
    cell = changed(before, sheet(grey((100, 100)), frame, [strong, moved]))
    alone = brightness(overlay(grey((100, 100)), frame, weak, legend=False)).max()
    assert brightness(before)[cell].max() < alone - 40


def test_one_sharp_map_does_not_darken_a_sheet() -> None:
    """What is beyond the scale has its last colour, and others are seen."""
    frame = preprocess("squash").frame(100, 100)
    sharp, mild = planted((5, 5), 2, 2), planted((5, 5), 2, 2, 0.2)
    words = [sharp, mild, mild, mild, mild]
    before = sheet(grey((100, 100)), frame, words)
    alone = brightness(overlay(grey((100, 100)), frame, mild, legend=False)).max()
    for i in range(5):
        moved = [*words[:i], planted((5, 5), 0, 0, 0.2), *words[i + 1 :]]
        cell = changed(before, sheet(grey((100, 100)), frame, moved))
        assert brightness(before)[cell].max() > alone - 10


def test_sheet_tells_roles_apart() -> None:
    frame = preprocess("squash").frame(80, 60)
    sheets = []
    for role in ("question", "answer", "caption"):
        word = WordMap("dog", role, torch.ones(2, 2))
        colours = sheet(grey((80, 60)), frame, [word]).getcolors(1_000_000)
        sheets.append({colour for count, colour in colours if count > 20})
    marks = [
        found - set.union(*(other for other in sheets if other is not found)) for found in sheets
    ]
    assert all(marks)


def test_legend_names_what_was_not_seen() -> None:
    frames = [preprocess(fit, (32, 32)).frame(300, 100) for fit in ("squash", "crop")]
    whole, cropped = (overlay(grey((300, 100)), frame, planted((2, 2), 0, 0)) for frame in frames)
    assert cropped.height > whole.height
    padded = preprocess("pad", (60, 40)).frame(300, 100)
    assert overlay(grey((300, 100)), padded, planted((2, 2), 0, 0)).height == whole.height


# Errors


@pytest.mark.parametrize(
    "weights",
    [
        torch.zeros(3, 3),
        torch.full((3, 3), float("nan")),
        torch.tensor([[0.5, -0.1]]),
        torch.tensor([[0.5, float("inf")]]),
        torch.ones(9),
        torch.ones(1, 3, 3),
        torch.ones(0, 3),
    ],
)
def test_map_that_is_none(weights: torch.Tensor) -> None:
    frame, word = preprocess("squash").frame(20, 20), WordMap("dog", "caption", weights)
    for draw in (
        lambda: overlay(grey((20, 20)), frame, word),
        lambda: heat(frame, word),
        lambda: sheet(grey((20, 20)), frame, [word]),
    ):
        with pytest.raises(ValueError, match="the map of 'dog'"):
            draw()


def test_frame_of_another_image() -> None:
    """As of a photo before its EXIF rotation: the heat would be in the wrong place."""
    frame = preprocess("squash").frame(20, 30)
    for draw in (overlay, sheet):
        word = planted((2, 2), 0, 0)
        with pytest.raises(ValueError, match="the frame is of a 20 x 30 image, not 30 x 20"):
            draw(grey((30, 20)), frame, word if draw is overlay else [word])


def test_other_refusals() -> None:
    frame = preprocess("squash").frame(20, 20)
    with pytest.raises(ValueError, match="no words"):
        sheet(grey((20, 20)), frame, [])
    for opacity in (-0.1, 1.1):
        with pytest.raises(ValueError, match="opacity"):
            overlay(grey((20, 20)), frame, planted((2, 2), 0, 0), opacity=opacity)


def test_import_is_light() -> None:
    code = "import sys, vlm, vlm.explain.overlay; sys.exit({'torch', 'matplotlib'} & set(sys.modules) != set())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_legend_names_what_made_the_map(monkeypatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "vlm.explain.lettering.write", lambda canvas, box, text, *style: written.append(text)
    )
    photo = Image.new("RGB", (60, 40))
    frame = preprocess("squash").frame(60, 40)
    word = WordMap("dog", "caption", torch.rand(2, 2), method="occlusion")
    for draw in (lambda: overlay(photo, frame, word), lambda: sheet(photo, frame, [word])):
        written.clear()
        draw()
        assert "occlusion (1 × = spread evenly)" in written
