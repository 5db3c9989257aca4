"""The app: what the server says about a photo, and the whole of it in a browser."""

from __future__ import annotations

import copy
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

import vlm
from vlm.app.page import DISPLAY_SIZE, View, answer, build, describe, example_photos
from vlm.app.page import Page as Tab
from vlm.captioner import Answer, Captioner

REPOSITORY = Path(__file__).resolve().parent.parent
DOG = REPOSITORY / "assets" / "examples" / "dog.jpg"
HORSES = REPOSITORY / "assets" / "examples" / "horses.jpg"
PATIENCE = 60_000  # ms; a busy machine is slow, not wrong


def texts(words: list[View]) -> list[str]:
    return [word["text"] for word in words]


def described(captioner: Captioner, photo: Path, tab: Tab | None = None) -> Tab:
    tab = tab or Tab()
    list(describe(captioner, tab, photo, photo.name, 1))
    return tab


def displayed(tab: Tab) -> Image.Image:
    assert tab.photo
    return Image.open(tab.photo["file"]["path"])


# What the server says.


def test_a_caption_streams_and_ends_as_the_beam_search_has_it(tiny: Captioner) -> None:
    views = list(describe(tiny, Tab(), DOG, "dog.jpg", 7))
    image = tiny.encode(DOG)
    greedy = [word.text for word in image.stream()]
    caption = image.caption()

    written = [texts(view["caption"]) for view in views[:-1]]
    assert written == [[], *(greedy[:count] for count in range(len(greedy) + 1))]
    assert all(view["busy"] for view in views[:-1])
    assert texts(views[-1]["caption"]) == [word.text for word in caption.words]
    assert views[-1]["busy"] is None
    assert views[-1]["message"] is None
    assert {view["turn"] for view in views} == {7}
    for word, word_map in zip(views[-1]["caption"], caption.maps(), strict=True):
        np.testing.assert_allclose(word["map"], word_map.weights, atol=1e-5)


def test_questions_share_one_encoding_and_their_answers_pile_up(
    tiny: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = described(tiny, DOG)
    monkeypatch.setattr(tiny, "encode_all", lambda sources: pytest.fail("encoded again"))
    for question in ("what colour is the shape?", "is there a dog?"):
        *_, view = answer(tab, question, 2)
    assert tab.image
    expected = tab.image.ask("is there a dog?")

    assert len(view["answers"]) == 2
    last = view["answers"][-1]
    assert texts(last["question"]) == ["is", "there", "a", "dog", "?"]
    assert texts(last["words"]) == [word.text for word in expected.words]
    assert last["candidates"][0] == {
        "text": expected.text,
        "confidence": pytest.approx(expected.confidence, abs=1e-4),
    }
    assert len(last["candidates"]) == 1 + len(expected.alternatives)
    maps = [word["map"] for word in last["question"] + last["words"]]
    np.testing.assert_allclose(maps, [m.weights for m in expected.maps()], atol=1e-5)


@pytest.mark.parametrize(
    ("question", "said"), [("  ", "question is empty"), ("why " * 2500, "question is too long")]
)
def test_a_question_that_cannot_be_asked_leaves_the_page_as_it_was(
    tiny: Captioner, question: str, said: str
) -> None:
    tab = described(tiny, DOG)
    before = list(answer(tab, "is there a dog?", 2))[-1]
    after = list(answer(tab, question, 3))[-1]
    assert said in after["message"]
    assert after["busy"] is None
    assert {**after, "turn": 2, "message": None} == before


def test_a_question_needs_a_photo() -> None:
    *_, view = answer(Tab(), "is there a dog?", 1)
    assert view["message"] == "Choose a photo first."


def test_a_file_that_is_no_photo_leaves_the_page_as_it_was(tiny: Captioner, tmp_path: Path) -> None:
    tab = described(tiny, DOG)
    before = tab.view(1)
    broken = tmp_path / "0a1b2c" / "letter.pdf"
    broken.parent.mkdir()
    broken.write_bytes(b"%PDF-1.4 no photo")
    *_, after = describe(tiny, tab, broken, "letter.pdf", 2)
    assert after["message"].startswith("“letter.pdf” is not an image")
    assert str(tmp_path) not in after["message"]
    assert {**after, "turn": 1, "message": None} == before


def test_a_model_that_writes_no_captions_shows_the_photo_and_answers(tiny: Captioner) -> None:
    model = copy.copy(tiny.model)
    model.config = replace(tiny.model.config, tasks=("vqa",))
    tab = Tab()
    *_, view = describe(Captioner(model, tiny.tokenizer), tab, DOG, "dog.jpg", 1)
    assert view["photo"]["name"] == "dog.jpg"
    assert view["busy"] is None
    assert "ask it a question" in view["message"]
    *_, asked = answer(tab, "is there a dog?", 2)
    assert asked["message"] is None
    assert len(asked["answers"]) == 1


def test_a_new_photo_takes_the_place_of_the_old_and_its_answers(tiny: Captioner) -> None:
    tab = described(tiny, DOG)
    list(answer(tab, "is there a dog?", 2))
    described(tiny, HORSES, tab)
    assert tab.answers == []
    assert tab.photo
    assert tab.photo["name"] == "horses.jpg"


def test_two_pages_never_mix(tiny: Captioner) -> None:
    alone = [list(describe(tiny, Tab(), photo, photo.name, 1)) for photo in (DOG, HORSES)]
    tabs = Tab(), Tab()
    streams = [describe(tiny, tab, photo, photo.name, 1) for tab, photo in zip(tabs, (DOG, HORSES))]
    together: list[list[View]] = [[], []]
    while any(len(seen) < len(all_) for seen, all_ in zip(together, alone)):
        for seen, stream in zip(together, streams):
            seen += [view for view in [next(stream, None)] if view is not None]
    assert [[v["caption"] for v in views] for views in together] == [
        [v["caption"] for v in views] for views in alone
    ]


def test_a_rotated_photo_is_shown_upright(tiny: Captioner, tmp_path: Path) -> None:
    lying = Image.new("RGB", (80, 40), "black")
    lying.paste("red", (0, 0, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the top of the scene is on the right
    lying.save(tmp_path / "lying.jpg", exif=exif)
    shown = displayed(described(tiny, tmp_path / "lying.jpg"))
    assert shown.size == (40, 80)
    red, _, blue = shown.getpixel((20, 8))
    assert red > 200 > blue
    assert not shown.getexif()


def test_a_transparent_photo_is_shown_on_white(tiny: Captioner, tmp_path: Path) -> None:
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    shown = displayed(described(tiny, tmp_path / "clear.png"))
    assert shown.getpixel((15, 15)) == (255, 255, 255)


def test_a_huge_photo_is_shown_small_and_placed_as_a_share_of_its_sides(
    tiny: Captioner, tmp_path: Path
) -> None:
    Image.new("RGB", (6000, 3000), "teal").save(tmp_path / "wide.png")
    tab = described(tiny, tmp_path / "wide.png")
    assert tab.photo
    assert displayed(tab).size == (DISPLAY_SIZE, DISPLAY_SIZE // 2)
    assert (tab.photo["width"], tab.photo["height"]) == (6000, 3000)
    frame = tiny.preprocess.frame(6000, 3000)
    left, top, right, bottom = frame.box
    assert tab.photo["box"] == [left / 6000, top / 3000, right / 6000, bottom / 3000]


def test_every_example_can_be_read(tiny: Captioner) -> None:
    photos = example_photos()
    assert DOG.name in [photo.name for photo in photos]
    for photo in photos:
        assert described(tiny, photo).caption


def test_the_events_of_the_page_are_no_public_interface(tiny: Captioner) -> None:
    assert build(tiny).get_api_info()["named_endpoints"] == {}


# The app in a browser.


@pytest.fixture(scope="module")
def address(tiny_checkpoint: Path) -> Iterator[str]:
    """The app as a user starts it, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--model", str(tiny_checkpoint), "--port", str(port)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line
        yield f"http://127.0.0.1:{port}/"
        process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    installed = next((path for path in map(shutil.which, names) if path), None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Callable[[], Page]]:
    """Open a page of the app in a session of its own; pages ask nothing of other hosts and report no errors."""
    troubles: list[str] = []
    contexts = []

    def open_one() -> Page:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 860}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: is_foreign(request.url) and troubles.append(request.url))
        page.goto(address)
        page.locator(".examples button").first.wait_for()
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(open_page: Callable[[], Page]) -> Page:
    return open_page()


def is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"


@pytest.fixture(scope="module")
def dog_caption(tiny_checkpoint: Path) -> Answer:
    return vlm.load(tiny_checkpoint).encode(DOG).caption()


@pytest.fixture(scope="module")
def horses_caption(tiny_checkpoint: Path) -> Answer:
    return vlm.load(tiny_checkpoint).encode(HORSES).caption()


def choose_file(page: Page, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def assert_captioned(page: Page, caption: Answer) -> None:
    expect(page.locator(".caption > *")).to_have_text(
        [word.text for word in caption.words], timeout=PATIENCE
    )
    expect(page.locator(".caption button:disabled")).to_have_count(0, timeout=PATIENCE)
    expect(page.locator(".busy")).to_have_text("", timeout=PATIENCE)


def opacity(page: Page) -> np.ndarray:
    """The canvas's opacity (H, W), which grows with the heat; 0 everywhere when it is hidden."""
    values = page.evaluate(
        """() => {
          const canvas = document.querySelector(".picture canvas");
          if (canvas.hidden) return [[0]];
          const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const alpha = [...data].filter((_, i) => i % 4 === 3);
          return Array.from({ length: canvas.height }, (_, y) => alpha.slice(y * width, (y + 1) * width));
        }"""
    )
    return np.array(values)


def assert_shows(heat: np.ndarray, weights: np.ndarray) -> None:
    """The canvas has its maximum in the middle of the map's strongest patch."""
    height, width = weights.shape
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    centre = heat[
        int((row + 0.5) / height * heat.shape[0]), int((column + 0.5) / width * heat.shape[1])
    ]
    assert centre == heat.max() > heat.min()


def test_photo_words_question_and_broken_file(
    page: Page, dog_caption: Answer, tmp_path: Path
) -> None:
    choose_file(page, DOG)
    assert_captioned(page, dog_caption)
    assert page.evaluate("document.querySelector('.picture img').naturalWidth") == 640

    # Each word has a map of its own, by mouse ...
    words = page.locator(".caption button:enabled")
    maps = [m.weights.numpy() for m in dog_caption.maps() if any(map(str.isalnum, m.text))]
    assert opacity(page).max() == 0
    seen = []
    for index in (0, words.count() - 1):
        words.nth(index).click()
        expect(words.nth(index)).to_have_attribute("aria-pressed", "true")
        seen.append(opacity(page))
        assert_shows(seen[-1], maps[index])
    assert (seen[0] != seen[1]).any()
    words.nth(0).hover()
    np.testing.assert_array_equal(opacity(page), seen[0])
    page.mouse.move(0, 0)
    np.testing.assert_array_equal(opacity(page), seen[1])

    # ... and by keyboard.
    page.keyboard.press("Escape")
    assert opacity(page).max() == 0
    page.keyboard.press("Home")
    expect(words.nth(0)).to_be_focused()
    np.testing.assert_array_equal(opacity(page), seen[0])
    page.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(words.nth(1)).to_have_attribute("aria-pressed", "true")
    assert_shows(opacity(page), maps[1])
    assert words.nth(1).inner_text() in page.locator(".readout").inner_text()

    # An answer has its confidence, alternatives and maps.
    image = dog_caption.image
    for count, question in enumerate(("what colour is the shape?", "is there a dog?"), start=1):
        page.get_by_label("Ask about the photo").fill(question)
        page.keyboard.press("Enter")
        expect(page.locator(".answers li")).to_have_count(count, timeout=PATIENCE)
    expected = image.ask("is there a dog?")
    latest = page.locator(".answers li").first
    assert latest.locator(".answer > *").all_inner_texts() == [w.text for w in expected.words]
    assert latest.locator("dt").first.inner_text() == expected.text
    shares = latest.locator("dd").all_inner_texts()
    assert len(shares) == 1 + len(expected.alternatives)
    assert shares[0] in (f"{round(100 * expected.confidence)} %", "< 1 %")
    asked = latest.locator(".question button").first
    asked.click()
    expect(asked).to_have_attribute("aria-pressed", "true")
    assert_shows(opacity(page), expected.maps()[0].weights.numpy())

    # What goes wrong is said, and all else stays.
    before = page.locator(".reading").inner_text()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(DOG.read_bytes()[:100])
    choose_file(page, broken)
    message = page.get_by_role("alert")
    expect(message).to_contain_text("“broken.jpg”", timeout=PATIENCE)
    assert "Traceback" not in message.inner_text()
    page.get_by_role("button", name="Ask").click()
    expect(message).to_contain_text("question is empty", timeout=PATIENCE)
    assert page.locator(".reading").inner_text() == before


def test_the_latest_of_two_photos_wins_and_another_tab_keeps_its_own(
    open_page: Callable[[], Page], dog_caption: Answer, horses_caption: Answer
) -> None:
    mine, other = open_page(), open_page()
    other.get_by_role("button", name="dog").click()
    mine.get_by_role("button", name="dog").click()
    mine.get_by_role("button", name="horses").click()
    for page, caption in ((other, dog_caption), (mine, horses_caption)):
        assert_captioned(page, caption)
        page.get_by_label("Ask about the photo").fill("is there a dog?")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator(".answers li")).to_have_count(1, timeout=PATIENCE)
        expected = caption.image.ask("is there a dog?")
        assert page.locator(".answers dt").first.inner_text() == expected.text


def test_photos_can_be_pasted_and_dropped(
    page: Page, dog_caption: Answer, horses_caption: Answer
) -> None:
    for kind, path, caption in (("paste", DOG, dog_caption), ("drop", HORSES, horses_caption)):
        page.evaluate(
            """([kind, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "photo.jpg", { type: "image/jpeg" }));
              const event = kind === "paste"
                ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
              document.body.dispatchEvent(event);
            }""",
            [kind, list(path.read_bytes())],
        )
        assert_captioned(page, caption)


def test_on_a_narrow_screen_nothing_overflows_and_the_photo_stays_in_sight(
    page: Page, dog_caption: Answer
) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    choose_file(page, DOG)
    assert_captioned(page, dog_caption)
    page.get_by_label("Ask about the photo").fill("is there a dog?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".answers li")).to_have_count(1, timeout=PATIENCE)
    page.locator(".answers .question button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.evaluate("window.scrollBy(0, 200)")
    box = page.locator(".picture").bounding_box()
    assert box
    assert box["y"] >= 0


def completed(address: str, event: str, data: dict[str, Any]) -> dict[str, Any]:
    """What the server makes of an event that no page of ours would send."""
    dependencies = httpx.get(f"{address}config").json()["dependencies"]
    listener = next(d for d in dependencies if d["targets"][0][1] == event)
    session = {"session_hash": f"forged-{event}"}
    request = {
        "data": [None],
        "event_data": {"turn": 1, **data},
        "fn_index": listener["id"],
        "trigger_id": listener["targets"][0][0],
        **session,
    }
    httpx.post(f"{address}gradio_api/queue/join", json=request).raise_for_status()
    with httpx.stream("GET", f"{address}gradio_api/queue/data", params=session, timeout=60) as sse:
        messages = [json.loads(line.removeprefix("data:")) for line in sse.iter_lines() if line]
    return next(message for message in messages if message["msg"] == "process_completed")


def test_only_uploaded_files_can_be_read(address: str) -> None:
    """The path of any other file of the server's, though it be a photo, gets nothing of it."""
    reply = completed(address, "photo", {"path": str(DOG), "name": "dog.jpg"})
    assert not reply["success"]
    assert "data" not in reply["output"]


def test_a_defect_becomes_a_sentence_on_the_page(address: str) -> None:
    (view,) = completed(address, "example", {"index": 999})["output"]["data"]
    assert view["message"].startswith("Something went wrong")
    assert view["photo"] is None
