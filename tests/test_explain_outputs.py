"""Maps as files: what each kind holds is read back, and the page is used in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from app_server import browsing
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from benchmarks.rendering import milliseconds
from vlm.captioner import Captioner
from vlm.errors import UserError
from vlm.explain.animation import SIDE
from vlm.explain.maps import Role, WordMap
from vlm.explain.outputs import KINDS, save
from vlm.explain.overlay import heat
from vlm.explain.paint import STYLES, contour_levels, outlined_from, paint
from vlm.images import Frame, Preprocess

GRID = (3, 4)


def planted(text: str, row: int, column: int, role: Role = "caption") -> WordMap:
    weights = torch.full(GRID, 0.02)
    weights[row, column] = 1
    return WordMap(text, role, weights / weights.sum(), 0.75, "occlusion", {"tags": 0.25})


def photo(size: tuple[int, int] = (120, 90)) -> Image.Image:
    noise = np.random.default_rng(0).integers(90, 160, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def frame(size: tuple[int, int] = (120, 90), fit: str = "squash") -> Frame:
    return Preprocess((48, 48), (0.5,) * 3, (0.5,) * 3, fit).frame(*size)


WORDS = [planted("a", 1, 2), planted("dog", 0, 0), planted("</script>{{photo}}", 2, 3)]


# Styles


@pytest.mark.parametrize("style", ["contour", "outline"])
def test_lines_lie_where_values_pass_a_level(style: str) -> None:
    """Each drawn pixel is within reach of a crossing, and most crossings are drawn."""
    values = heat(frame(), planted("dog", 1, 2))
    levels = contour_levels(12.0) if style == "contour" else [outlined_from(values)]
    even = Image.new("RGB", (120, 90), (128, 128, 128))
    drawn = np.asarray(paint(even, values, 12.0, style, 1.0), dtype=int)
    crossed = np.zeros(values.shape, dtype=bool)
    for level in levels:
        above = values >= level
        crossed[:, 1:] |= above[:, 1:] != above[:, :-1]
        crossed[1:] |= above[1:] != above[:-1]
    reach = np.zeros_like(crossed)
    for down in range(-5, 6):
        for across in range(-5, 6):
            reach |= np.roll(crossed, (down, across), (0, 1))
    plain = [(128, 128, 128), (115, 115, 115)]  # as it was, and faded
    lined = ~np.any([(drawn == colour).all(axis=-1) for colour in plain], axis=0)
    assert lined.any()
    assert not (lined & ~reach).any()
    assert (lined & crossed).sum() > 0.95 * crossed.sum()


def test_an_outline_holds_half_of_the_map() -> None:
    weights = torch.rand(GRID, generator=torch.Generator().manual_seed(3)) ** 3
    values = heat(frame(), WordMap("dog", "caption", weights))
    held = values[values >= outlined_from(values)].sum() / values.sum()
    assert held == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("style", STYLES)
def test_what_was_not_seen_is_alike_in_all_styles(style: str) -> None:
    size = (160, 60)
    values = heat(frame(size, "crop"), planted("dog", 1, 2))
    unseen = np.isnan(values)
    assert unseen.any()
    painted = np.asarray(paint(photo(size), values, 5.0, style, 0.8))
    assert painted[unseen].min() > 180
    assert np.ptp(painted[unseen], axis=-1).max() == 0


@pytest.mark.parametrize("style", ["contour", "outline"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_even_maps_and_thin_photos_have_no_lines(style: str, size: tuple[int, int]) -> None:
    values = np.ones((size[1], size[0]), dtype=np.float32)
    painted = paint(photo(size), values, 2.0, style, 1.0)
    assert painted.tobytes() == photo(size).tobytes()


def test_fifteen_overlays_are_quick() -> None:
    """Loosely: 150 ms is the bar on a quiet machine, and pixel by pixel in float32 it took 600."""
    assert min(milliseconds("heat", 15).processor for _ in range(3)) < 400


# Files


def test_arrays_are_read_back(tmp_path: Path) -> None:
    save(tmp_path / "maps.NPZ", photo(), frame(), WORDS)
    with np.load(tmp_path / "maps.NPZ", allow_pickle=False) as arrays:
        assert arrays["words"].tolist() == [word.text for word in WORDS]
        assert arrays["roles"].tolist() == ["caption"] * 3
        assert arrays["methods"].tolist() == ["occlusion"] * 3
        np.testing.assert_array_equal(arrays["weights"], [word.weights for word in WORDS])
        np.testing.assert_allclose(arrays["mass"], 0.75)
        assert arrays["elsewhere_names"].tolist() == ["tags"]
        np.testing.assert_allclose(arrays["elsewhere"], [[0.25]] * 3)
        assert arrays["size"].tolist() == [120, 90]
        assert arrays["box"].tolist() == [0, 0, 120, 90]


def test_the_animation_shows_each_word_in_turn(tmp_path: Path) -> None:
    """Of two words, whose frames differ where one of them looked."""
    size = (900, 300)
    save(tmp_path / "words.webp", photo(size), frame(size), WORDS[:2])
    with Image.open(tmp_path / "words.webp") as film:
        assert film.n_frames == 3
        assert film.info["loop"] == 0
        shown = []
        for index in range(3):
            film.seek(index)
            shown.append(np.asarray(film.convert("L"), dtype=int)[:270, :SIDE])
            assert film.info["duration"] >= 500
    rows, columns = (
        slice(90, 178),
        slice(400, 600),
    )  # the first word's patch, and below the second's
    assert shown[1][rows, columns].mean() > shown[2][rows, columns].mean() + 20
    assert shown[2][:90, :200].mean() > shown[1][:90, :200].mean() + 20


def test_the_animation_leaves_a_word_of_language_alone_grey(tmp_path: Path) -> None:
    red = Image.new("RGB", (300, 120), (200, 60, 60))
    save(tmp_path / "words.webp", red, frame(red.size), WORDS[:2], alone=[0])
    with Image.open(tmp_path / "words.webp") as film:
        colourful = []
        for index in range(3):
            film.seek(index)
            seen = np.asarray(film.convert("RGB"), dtype=int)[:100, :280]
            colourful.append(np.ptp(seen, axis=-1).max() > 40)
    assert colourful == [True, False, True]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_pictures_have_styles(tmp_path: Path, ending: str, style: str) -> None:
    default, styled = tmp_path / f"default{ending}", tmp_path / f"styled{ending}"
    save(default, photo(), frame(), WORDS)
    save(styled, photo(), frame(), WORDS, style)
    with Image.open(default) as one, Image.open(styled) as other:
        one.seek(min(1, getattr(one, "n_frames", 1) - 1))
        other.seek(min(1, getattr(other, "n_frames", 1) - 1))
        assert (one.convert("RGB").tobytes() == other.convert("RGB").tobytes()) == (style == "heat")


@pytest.mark.parametrize(
    ("name", "style", "words", "sentence"),
    [
        ("maps.pdf", None, WORDS, "there are: .png"),
        ("maps", None, WORDS, "there are: .png"),
        ("maps.png", "oil", WORDS, "there is no style 'oil'; there are: heat, contour, outline"),
        ("maps.npz", "heat", WORDS, "a .npz file has no style; .png and .webp have"),
        ("maps.html", "contour", WORDS, "a .html file has no style"),
        *((f"maps{kind}", None, [], "there are no words to show") for kind in KINDS),
    ],
)
def test_refusals(
    tmp_path: Path, name: str, style: str | None, words: list[WordMap], sentence: str
) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        save(tmp_path / name, photo(), frame(), words, style)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_saves_itself(tiny: Captioner, tmp_path: Path) -> None:
    answer = tiny.encode(photo()).explain("a dog", "what is it?")
    for kind in KINDS:
        answer.save(tmp_path / f"answer{kind}", "occlusion")
    with np.load(tmp_path / "answer.npz") as arrays:
        assert arrays["words"].tolist() == [word.text for word in answer.maps()]
        assert set(arrays["methods"]) == {"occlusion"}
    answer.save(tmp_path / "outlined.png", style="outline")
    assert (tmp_path / "outlined.png").read_bytes() != (tmp_path / "answer.png").read_bytes()


# The page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A page of three words, on a photo of which the sides were not seen."""
    size = (160, 90)
    save(tmp_path / "words.html", photo(size), frame(size, "crop"), WORDS)
    page = browser.new_page(viewport={"width": 900, "height": 700})
    troubles: list[str] = []
    page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request",
        lambda asked: asked.url.startswith(("file:", "data:")) or troubles.append(asked.url),
    )
    page.goto((tmp_path / "words.html").as_uri())
    yield page
    page.close()
    assert troubles == []


def heat_at(page: Page, x: float, y: float) -> list[int]:
    """Red, green, blue and opacity of the heatmap at a place of the photo in 0..1."""
    script = (
        "(c, [x, y]) => [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]"
    )
    return page.locator("canvas").evaluate(script, [x, y])


def test_a_word_lights_its_patches_up(page: Page) -> None:
    words = page.locator(".words button")
    expect(words).to_have_text([word.text for word in WORDS])
    expect(page.locator("canvas")).to_be_hidden()
    page.get_by_role("button", name="dog", exact=True).click()
    expect(page.locator("canvas")).to_be_visible()
    left, right = 35 / 160, 125 / 160  # the square in the middle was seen
    first, other = (left + (right - left) * part for part in (1 / 8, 5 / 8))
    assert sum(heat_at(page, first, 1 / 6)[:3]) > 600  # the lightest colour
    assert sum(heat_at(page, other, 1 / 2)[:3]) < 150
    assert heat_at(page, left / 2, 1 / 2)[3] == 0
    expect(page.locator(".readout")).to_contain_text("row 1, column 1")
    expect(page.locator(".readout")).to_contain_text("75 % of it fell on the photo")


def test_a_patch_lights_its_words_up(page: Page) -> None:
    box = page.locator(".picture").bounding_box()
    assert box
    across = 35 / 160 + 90 / 160 * 5 / 8
    page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] / 2)
    expect(page.locator(".words button.most")).to_have_text("a")
    expect(page.locator(".readout")).to_contain_text("Row 2, column 3: “a” ")
    patch = page.locator(".patch").bounding_box()
    assert patch
    left, _, right, _ = frame((160, 90), "crop").box
    assert patch["x"] == pytest.approx(box["x"] + box["width"] * (left + right) / 320, abs=1)
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)  # not seen
    expect(page.locator(".patch")).to_be_hidden()
    expect(page.locator(".words button.most")).to_have_count(0)


def test_the_keyboard_reaches_words_and_patches(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".picture")).to_be_focused()
    expect(page.locator(".readout")).to_contain_text("Row 2, column 3: “a” ")
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    expect(page.locator(".words button.most")).to_have_text("dog")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="dog", exact=True)).to_be_focused()
    expect(page.locator(".readout")).to_contain_text("“dog”")
    page.keyboard.press("Enter")
    expect(page.locator("button[aria-pressed=true]")).to_have_text("dog")
    page.keyboard.press("Escape")
    expect(page.locator("button[aria-pressed=true]")).to_have_count(0)
    expect(page.locator("canvas")).to_be_hidden()


def test_a_word_of_language_alone_lights_nothing_up(browser: Browser, tmp_path: Path) -> None:
    save(tmp_path / "words.html", photo(), frame(), WORDS[:2], alone=[0])
    page = browser.new_page()
    page.goto((tmp_path / "words.html").as_uri())
    words, canvas = page.locator(".words button"), page.locator("canvas")
    words.nth(0).hover()
    expect(canvas).to_be_hidden()
    expect(page.locator(".readout")).to_contain_text("language alone would have written it")
    words.nth(1).hover()
    expect(canvas).to_be_visible()
    assert words.nth(0).evaluate("node => getComputedStyle(node).fontStyle") == "italic"
    page.locator(".picture").focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".readout")).to_contain_text("“dog”")
    expect(page.locator(".readout")).not_to_contain_text("“a”")
    page.close()
