"""What a person sees in a photo and its words: each lights up the other, parts are hidden, own texts checked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from app_server import (
    PATIENCE,
    REPOSITORY,
    assert_captioned,
    assert_shows,
    choose_file,
    opacity,
    serving,
    visiting,
)
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import vlm
from training.evaluation.trust_report import store
from vlm.answers import Answer
from vlm.model.config import CalibrationConfig, VerdictConfig

DOG = REPOSITORY / "assets" / "examples" / "dog.jpg"
GRID = 3  # patches of a side

# Chosen on a page: opened, captioned, with an answer.
QUESTION = "is there a dog?"


@pytest.fixture(scope="module")
def caption(tiny_checkpoint: Path) -> Answer:
    return vlm.load(tiny_checkpoint).encode(DOG).caption()


@pytest.fixture(scope="module")
def shared(browser: Browser, app_address: str) -> Iterator[Page]:
    """One page for many tests, since opening one takes longer than most of them."""
    with visiting(browser, app_address) as open_one:
        yield open_one()


@pytest.fixture
def seen(shared: Page, caption: Answer) -> Page:
    """A page with the dog's caption, and nothing else: no answers, panels, chosen parts."""
    shared.get_by_role("tab", name="Look").click()
    shared.locator(".working").wait_for(state="detached")
    for on in shared.locator(
        "[data-panel][aria-expanded=true], [data-tool][aria-pressed=true]"
    ).all():
        on.click()
    if shared.locator(".reading").is_visible():
        shared.locator("[name=vlm-mode][value=ask]").check()
    shared.mouse.move(0, 0)
    return with_caption(shared, caption)


@pytest.fixture
def alone(page: Page, caption: Answer) -> Page:
    """A page with the dog's caption for a test that leaves it otherwise than it was: settings, language."""
    return with_caption(page, caption)


def with_caption(page: Page, caption: Answer) -> Page:
    page.locator(".examples button").nth(2).click()
    page.locator(".working").wait_for(state="detached")
    assert_captioned(page, caption)
    # What the image did for the words comes last.
    page.locator(".key span").first.wait_for()
    return page


def ask(page: Page, question: str) -> None:
    count = page.locator(".answers li").count()
    page.locator("#vlm-question").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator(".answers li")).to_have_count(count + 1, timeout=PATIENCE)
    expect(page.locator(".busy")).to_have_text("", timeout=PATIENCE)


def place(page: Page, row: float, column: float) -> tuple[float, float]:
    """A place of the photo on the screen, in cells of the grid."""
    box = page.locator(".surface").bounding_box()
    assert box
    return box["x"] + box["width"] * column / GRID, box["y"] + box["height"] * row / GRID


def drag(page: Page, start: tuple[float, float], stop: tuple[float, float]) -> None:
    page.mouse.move(*place(page, *start))
    page.mouse.down()
    page.mouse.move(*place(page, *stop), steps=4)
    page.mouse.up()


def worded(answer: Answer) -> list[tuple[str, np.ndarray]]:
    """Words that are buttons, with their maps."""
    maps = answer.maps()
    return [(m.text, m.weights.numpy()) for m in maps if any(map(str.isalnum, m.text))]


def buttons(answer: Answer) -> list[int]:
    """The places of words that are buttons among all words of a text."""
    return [i for i, word in enumerate(answer.words) if any(map(str.isalnum, word.text))]


def test_the_verdict_stands_over_the_text_with_its_reason(
    seen: Page, trusted_checkpoint: Path
) -> None:
    captioner = vlm.load(trusted_checkpoint)
    image = captioner.encode(DOG)
    judgement = image.caption().judgement
    assert judgement is not None
    likely = f"{round(100 * judgement.likely)} %" if judgement.likely >= 0.01 else "< 1 %"
    verdict = seen.locator(".reading > .verdict")
    expect(verdict).to_have_attribute("data-verdict", "sure")
    expect(verdict).to_contain_text(f"The model is sure. It finds this {likely} likely")
    ask(seen, QUESTION)
    expect(seen.locator(".answers .verdict")).to_contain_text("The model is not sure.")


def test_a_text_just_below_the_bound_is_told_apart_from_it(
    trusted_checkpoint: Path, browser: Browser, tmp_path: Path
) -> None:
    judgement = vlm.load(trusted_checkpoint).encode(DOG).caption().judgement
    assert judgement is not None
    folder, bound = tmp_path / "just-below", judgement.likely + 0.0002
    shutil.copytree(trusted_checkpoint, folder)
    verdict = VerdictConfig(
        photo=-1e6, sure_answer=2.0, guess_answer=0.0, sure_caption=bound, guess_caption=0.0
    )
    store(folder, CalibrationConfig(), verdict, torch.ones(32))
    with serving(folder) as (address, _), visiting(browser, address) as open_one:
        page = open_one()
        choose_file(page, DOG)
        verdict_line = page.locator(".reading > .verdict")
        expect(verdict_line).to_have_attribute("data-verdict", "unsure", timeout=PATIENCE)
        likely, sure = re.findall(r"([\d.]+) %", verdict_line.inner_text())
    assert float(likely) < float(sure)


def test_a_place_lights_up_the_words_that_drew_on_it_strongest_first(
    seen: Page, caption: Answer
) -> None:
    words = worded(caption)
    for row, column in ((0, 0), (1, 2), (2, 1)):
        seen.mouse.move(*place(seen, row + 0.5, column + 0.5))
        times = [weights[row, column] * weights.size for _, weights in words]
        lit = seen.locator(".caption button").evaluate_all(
            "all => all.map((b) => b.classList.contains('lit'))"
        )
        assert lit == [t > 1 for t in times]
        if any(lit):
            strongest = words[int(np.argmax(times))][0]
            readout = seen.locator(".readout").inner_text()
            assert readout.startswith(f"Here: {strongest} {max(times):.1f}")
    seen.mouse.move(0, 0)
    expect(seen.locator(".lit")).to_have_count(0)


def test_a_box_has_its_share_of_every_word_and_says_what_is_in_it(
    seen: Page, caption: Answer
) -> None:
    drag(seen, (0.2, 0.2), (1.8, 1.8))
    text, best = max(
        ((text, weights[:2, :2].sum()) for text, weights in worded(caption)),
        key=lambda pair: pair[1],
    )
    said = seen.locator(".shares").inner_text().split(": ")[1]
    assert said.startswith(f"{text} {round(100 * best)} %")
    # All but the box is dimmed, by pixels.
    assert dimmed(seen, 0.5, 0.5) == 0 < dimmed(seen, 2.5, 2.5)

    seen.get_by_role("button", name="What is here?").click()
    image = caption.image
    assert image is not None
    frame = image.frame
    part = image.region((0, 0, frame.width * 2 / 3, frame.height * 2 / 3)).caption()
    expect(seen.locator(".found")).to_contain_text(f"“{part.text}”", timeout=PATIENCE)

    seen.get_by_role("button", name="Clear").click()
    assert seen.locator(".selection").is_hidden()
    assert dimmed(seen, 2.5, 2.5) == 0


def dimmed(page: Page, row: float, column: float) -> int:
    """How opaque the layer of what is chosen is at a place, 0 to 255."""
    return page.evaluate(
        """([row, column]) => {
          const canvas = document.querySelector(".chosen");
          const [x, y] = [column * canvas.width / 3, row * canvas.height / 3].map(Math.floor);
          return canvas.getContext("2d").getImageData(x, y, 1, 1).data[3];
        }""",
        [row, column],
    )


@pytest.mark.parametrize("keep", [True, False])
def test_a_part_that_is_painted_over_is_hidden_or_kept_and_both_answers_stand_side_by_side(
    seen: Page, caption: Answer, keep: bool
) -> None:
    ask(seen, QUESTION)
    box = seen.get_by_role("button", name="Box")
    box.click()
    expect(box).to_have_attribute("aria-pressed", "true")
    drag(seen, (0.5, 0.5), (2.5, 0.5))
    image = caption.image
    assert image is not None
    left = (0, 0, image.frame.width / 3, image.frame.height)
    before = image.ask(QUESTION)
    expected = before.what_if(only=left) if keep else before.what_if(hide=left)
    name = "Keep only it and ask again" if keep else "Hide it and ask again"
    seen.get_by_role("button", name=name).click()
    entry = seen.locator(".entry-what-if")
    entry.wait_for(timeout=PATIENCE)
    sides = entry.locator(".sides > div")
    for side, answer in zip((0, 1), (before, expected.answer)):
        words = sides.nth(side).locator(".words > *").all_inner_texts()
        assert words == [word.text for word in answer.words]
    assert ("It says the same" in entry.inner_text()) == (not expected.changed)
    # The photo in small shows what was hidden, by pixels.
    grey = entry.locator("canvas").evaluate(
        """(canvas) => [1, 5].map((x) => [...canvas.getContext("2d").getImageData(
          Math.floor(x * canvas.width / 6), 5, 1, 1).data.slice(0, 3)])"""
    )
    assert [pixel == [128, 128, 128] for pixel in grey] == (
        [False, True] if keep else [True, False]
    )


def test_painting_chooses_what_the_brush_goes_over(alone: Page) -> None:
    alone.get_by_role("button", name="Paint").click()
    drag(alone, (0.5, 0.5), (0.6, 0.6))  # a brush is three cells wide
    assert dimmed(alone, 1.5, 1.5) == 0 < dimmed(alone, 2.5, 2.5)
    alone.keyboard.press("Escape")
    assert alone.locator(".selection").is_hidden()


def test_a_text_of_ones_own_shows_what_the_photo_supports(seen: Page, caption: Answer) -> None:
    seen.get_by_label("Check my own text").check()
    ask(seen, "a dog in the park")
    image = caption.image
    assert image is not None
    expected = image.explain("a dog in the park")
    entry = seen.locator(".entry-check")
    words = entry.locator(".words button")
    assert words.all_inner_texts() == ["a", "dog", "in", "the", "park"]
    kinds = [
        "supported" if e >= 0.25 else "against" if e <= -0.25 else "alone"
        for e in expected.image_effect.words
    ]
    for index, kind in enumerate(kinds):
        expect(words.nth(index)).to_have_attribute("data-support", kind, timeout=PATIENCE)
    words.nth(1).click()
    assert_shows(opacity(seen), expected.maps()[1].weights.numpy())


def test_other_words_and_why_not_one_of_them(seen: Page, caption: Answer) -> None:
    seen.locator(".caption button").nth(1).click()
    seen.get_by_role("button", name="Other words").click()
    items = seen.locator("#vlm-panel-instead li")
    items.first.wait_for(timeout=PATIENCE)
    place = buttons(caption)[1]
    others = caption.instead(place)
    assert items.locator(".other").all_inner_texts() == [t or "(the text ends)" for t, _ in others]
    foil = next(text for text, _ in others if text and text != caption.words[place].text)
    button = seen.get_by_role("button", name=f"Why not “{foil}”?", exact=True)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)
    expected = caption.maps(method="contrast", foil=foil)[place]
    seen.mouse.move(0, 0)
    if expected.mass:
        assert_shows(opacity(seen), expected.weights.numpy())
        assert f"not for “{foil}”" in seen.locator(".readout").inner_text()
    else:
        assert opacity(seen).max() == 0


def test_inside_are_scores_weights_and_contributions_with_their_numbers(
    alone: Page, caption: Answer
) -> None:
    alone.locator(".caption button").first.click()
    alone.get_by_role("button", name="Inside").click()
    panel = alone.locator("#vlm-panel-inside")
    # By place: a list's values count from 0 and its labels from 1, and a text may stand for either.
    panel.locator(".layer").select_option(index=1)
    panel.locator(".head").select_option(index=2)
    expect(panel.locator(".lead")).to_contain_text(
        "Layer 2, head 3", ignore_case=True, timeout=PATIENCE
    )
    steps = panel.locator(".step")
    expect(steps).to_have_count(3)
    inside = caption.inside(buttons(caption)[0], 1, 2)
    for step, values in zip((0, 1, 2), (inside.scores, inside.weights, inside.added)):
        canvas = steps.nth(step).locator("canvas")
        box = canvas.bounding_box()
        assert box
        canvas.hover(position={"x": box["width"] * 5 / 6, "y": box["height"] / 6})
        said = steps.nth(step).locator("output").inner_text()
        assert said.startswith("row 1, column 3: ")
        assert float(said.split(": ")[1]) == pytest.approx(float(values[0, 2]), rel=0.01, abs=1e-5)


def test_another_method_layer_and_head_and_an_outline(alone: Page, caption: Answer) -> None:
    alone.locator(".caption button").first.click()
    alone.get_by_role("button", name="More").click()
    more = alone.locator("#vlm-panel-more")
    more.locator(".method").select_option("value")
    more.locator(".layer").select_option(value="0")
    expected = caption.maps(method="value", layer=0)[buttons(caption)[0]].weights.numpy()
    expect(alone.locator(".heat")).to_be_visible(timeout=PATIENCE)
    assert_shows(opacity(alone), expected)
    filled = (opacity(alone) > 0).mean()
    more.locator(".style").select_option("outline")
    assert 0 < (opacity(alone) > 0).mean() < filled / 2
    more.locator(".method").select_option("occlusion")
    assert more.locator(".layer").is_disabled()


def test_a_words_map_is_there_within_50_ms_and_asks_nothing_of_the_server(seen: Page) -> None:
    asked: list[str] = []
    seen.on("request", lambda request: asked.append(request.url))
    # The best of five: a busy machine is slow, not wrong.
    times = seen.evaluate(
        """() => [...document.querySelectorAll(".caption button")].map((button) => Math.min(
          ...Array.from({ length: 5 }, () => {
            const start = performance.now();
            button.dispatchEvent(new PointerEvent("pointerover", { pointerType: "mouse", bubbles: true }));
            const took = performance.now() - start;
            const shown = !document.querySelector(".heat").hidden && button.classList.contains("shown");
            button.dispatchEvent(new PointerEvent("pointerout", { pointerType: "mouse", bubbles: true }));
            return shown ? took : Infinity;
          })))"""
    )
    assert max(times) < 50
    assert asked == []


def test_words_are_played_one_after_the_other(seen: Page) -> None:
    seen.get_by_role("button", name="Play").click()
    words = seen.locator(".caption button")
    expect(words.nth(0)).to_have_attribute("aria-pressed", "true")
    expect(words.nth(1)).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)
    seen.get_by_role("button", name="Pause").click()
    expect(seen.get_by_role("button", name="Play")).to_be_visible()


def test_by_keyboard_alone(seen: Page, caption: Answer) -> None:
    surface = seen.locator(".surface")
    surface.focus()
    seen.keyboard.press("ArrowRight")
    words = worded(caption)
    times = [weights[1, 2] * weights.size for _, weights in words]
    readout = seen.locator(".readout").inner_text()
    assert readout.startswith("Here: ")
    if max(times) > 1:
        assert words[int(np.argmax(times))][0] in readout
    seen.keyboard.press("Shift+ArrowLeft")
    seen.keyboard.press("Shift+ArrowUp")
    assert seen.locator(".selection").is_visible()
    seen.keyboard.press("Enter")
    expect(seen.locator(".found")).to_contain_text("Here the model sees", timeout=PATIENCE)
    # All that can be clicked can be reached.
    reached = set()
    for _ in range(60):
        seen.keyboard.press("Tab")
        reached.add(
            seen.evaluate(
                "document.activeElement.dataset.tool ?? document.activeElement.dataset.panel"
            )
        )
    assert {"play", "box", "paint", "instead", "inside", "save", "more"} <= reached


def test_words_are_named_with_their_probability_for_screen_readers(
    seen: Page, caption: Answer
) -> None:
    place = buttons(caption)[0]
    word, first = caption.words[place], seen.locator(".caption button").first
    label = first.get_attribute("aria-label")
    assert label
    assert label.startswith(f"{word.text}, ")
    assert "% sure" in label
    alone = caption.image_effect.words[place] < 0.25
    assert ("language alone" in label) == alone


def test_pictures_and_words_can_be_saved(seen: Page, caption: Answer) -> None:
    seen.locator(".caption button").first.click()
    seen.get_by_role("button", name="Save").click()
    with seen.expect_download() as saving:
        seen.get_by_role("button", name="PNG").click()
    picture = Image.open(BytesIO(Path(saving.value.path()).read_bytes()))
    photo = Image.open(DOG)
    assert picture.format == "PNG"
    assert picture.width == photo.width
    assert picture.height > photo.height
    # Hottest where the map is: heat is yellow, and the photo below it grey.
    weights = worded(caption)[0][1]
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    red, _, blue = picture.convert("RGB").getpixel(
        (int((column + 0.5) / GRID * photo.width), int((row + 0.5) / GRID * photo.height))
    )
    assert red > blue + 40
    with seen.expect_download() as saving:
        seen.get_by_role("button", name="JSON").click()
    kept = json.loads(Path(saving.value.path()).read_text())
    np.testing.assert_allclose(
        kept["caption"]["words"][buttons(caption)[0]]["map"], weights, atol=1e-5
    )
    for kind, start in (("WebP", b"RIFF"), ("HTML", b"<!doctype"), ("NumPy", b"PK")):
        with seen.expect_download() as saving:
            seen.get_by_role("button", name=f"({kind})").click()
        assert Path(saving.value.path()).read_bytes()[: len(start)].lower() == start.lower()


def test_a_caption_can_be_stopped_and_its_words_stay(page: Page) -> None:
    page.locator(".examples button").nth(2).click()
    page.locator(".caption > *").first.wait_for()
    # In one step: the last word may come, and the button go, between a look and a click.
    stop = page.get_by_role("button", name="Stop")
    stop.evaluate_all("buttons => buttons.filter((b) => b.offsetParent).forEach((b) => b.click())")
    expect(page.locator(".busy")).to_have_text("")
    expect(page.locator(".caption button:disabled")).to_have_count(0, timeout=PATIENCE)
    assert page.locator(".caption button").count() >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_in_the_way_of_people_with_disabilities(
    open_page: Callable[..., Page], caption: Answer, scheme: str
) -> None:
    page = with_caption(open_page(color_scheme=scheme, reduced_motion="reduce"), caption)
    ask(page, QUESTION)
    page.get_by_label("Check my own text").check()
    ask(page, "a dog in the park")
    page.locator(".caption button").first.click()
    drag(page, (0.2, 0.2), (1.8, 1.8))
    for panel in ("Other words", "Inside", "Save", "More"):
        page.get_by_role("button", name=panel, exact=True).click()
        page.wait_for_timeout(300)
        found = Axe().run(page).response["violations"]
        bad = [v for v in found if v["impact"] in ("serious", "critical")]
        assert [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in bad] == []


@pytest.mark.parametrize("width", [375, 768, 1280, 1920])
def test_nothing_overflows_or_jumps(
    open_page: Callable[..., Page], caption: Answer, width: int
) -> None:
    page = open_page(viewport={"width": width, "height": 900})
    page.evaluate(
        """() => {
          window.jumps = 0;
          new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.jumps += entry.value;
          }).observe({ type: "layout-shift", buffered: true });
        }"""
    )
    with_caption(page, caption)
    page.wait_for_timeout(700)
    before = page.evaluate("window.jumps")
    page.locator(".caption button").first.hover()
    page.locator(".caption button").last.hover()
    page.mouse.move(*place(page, 1.5, 1.5))
    page.wait_for_timeout(200)
    assert page.evaluate("window.jumps") == before
    assert before < 0.1  # "good", as web.dev has it
    for panel in ("Other words", "Inside", "More"):
        page.get_by_role("button", name=panel, exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    ("tag", "choose"),
    [("de-DE", "Foto wählen"), ("fr-CA", "Choisir une photo"), ("nl", "Choose a photo")],
)
def test_the_page_speaks_the_browsers_language(
    open_page: Callable[..., Page], tag: str, choose: str
) -> None:
    page = open_page(locale=tag)
    assert page.locator(".invitation strong").inner_text() == choose


def test_the_language_can_be_chosen_and_captions_stay_english(alone: Page, caption: Answer) -> None:
    ask(alone, QUESTION)
    alone.get_by_role("button", name="More").click()
    alone.locator(".language").select_option("de")
    expect(alone.locator(".reading > .heading h2")).to_have_text("Beschreibung")
    assert_captioned(alone, caption)
    assert alone.locator(".caption").get_attribute("lang") == "en"
    assert alone.locator(".english").inner_text() == "Das Modell liest und schreibt Englisch."
    expect(alone.locator(".answers li")).to_have_count(1)
    alone.reload()
    assert alone.locator(".invitation strong").inner_text() == "Foto wählen"


def test_a_photo_can_be_taken_with_the_camera(page: Page) -> None:
    page.get_by_role("button", name="Camera").click()
    page.wait_for_function("document.querySelector('.camera video').videoWidth > 0")
    page.get_by_role("button", name="Take the photo").click()
    expect(page.locator(".picture img")).to_have_attribute("alt", "camera.jpg")
    assert page.evaluate("document.querySelector('.camera video').srcObject") is None
    page.locator(".key span").first.wait_for()


def test_two_settings_are_compared_on_the_photo(alone: Page, caption: Answer) -> None:
    image = caption.image
    assert image is not None
    expected = [image.caption(beams=beams) for beams in (3, 1)]
    alone.get_by_role("tab", name="Compare").click()
    alone.get_by_role("button", name="Compare", exact=True).click()
    sides = alone.locator(".side")
    expect(sides).to_have_count(2, timeout=PATIENCE)
    for side, answer in zip((0, 1), expected):
        said = sides.nth(side).locator(".words button").all_inner_texts()
        assert said == [word.text for word in answer.words]
    # Words that both have show both maps; the others are marked.
    shared = sides.nth(0).locator(".words button:not(.differs)")
    if shared.count():
        shared.first.click()
        expect(sides.locator("canvas:visible")).to_have_count(2)
    same = [word.text for word in expected[0].words] == [word.text for word in expected[1].words]
    assert (sides.locator(".differs").count() == 0) == same
    found = Axe().run(alone).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
