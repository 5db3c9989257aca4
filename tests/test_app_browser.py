"""The app in a browser, as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from app_server import (
    PATIENCE,
    REPOSITORY,
    assert_captioned,
    assert_shows,
    choose_file,
    opacity,
)
from playwright.sync_api import Page, expect

import vlm
from vlm.answers import Answer

DOG = REPOSITORY / "assets" / "examples" / "dog.jpg"
HORSES = REPOSITORY / "assets" / "examples" / "horses.jpg"


@pytest.fixture(scope="module")
def dog_caption(tiny_checkpoint: Path) -> Answer:
    return vlm.load(tiny_checkpoint).encode(DOG).caption()


@pytest.fixture(scope="module")
def horses_caption(tiny_checkpoint: Path) -> Answer:
    return vlm.load(tiny_checkpoint).encode(HORSES).caption()


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
    place = page.locator(".picture").bounding_box()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(DOG.read_bytes()[:100])
    choose_file(page, broken)
    message = page.get_by_role("alert")
    expect(message).to_contain_text("“broken.jpg”", timeout=PATIENCE)
    assert "Traceback" not in message.inner_text()
    page.get_by_role("button", name="Ask").click()
    expect(message).to_contain_text("question is empty", timeout=PATIENCE)
    assert page.locator(".reading").inner_text() == before
    assert page.locator(".picture").bounding_box() == place  # nothing moves when it is said


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


PASTE = """([text, html, name, bytes]) => {
  const data = new DataTransfer();
  if (text) data.setData("text/plain", text);
  if (html) data.setData("text/html", html);
  if (bytes) data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
  const box = document.querySelector("#vlm-question");
  box.focus();
  const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
  return box.dispatchEvent(event);  // whether the browser may paste the text
}"""


@pytest.mark.parametrize(
    ("text", "html", "name", "stays_text"),
    [
        ("what is on the grass?", "<table><tr><td>what is on the grass?", "image.png", True),
        ("what is on the grass?", None, "image.png", True),
        (None, "<img src='photo.jpg'>", "image.png", False),
        (None, None, "image.png", False),
        ("horses.jpg", None, "horses.jpg", False),  # a file copied in a folder
    ],
)
def test_what_is_pasted_into_the_question_box_stays_text_where_it_is_text(
    page: Page,
    horses_caption: Answer,
    text: str | None,
    html: str | None,
    name: str,
    stays_text: bool,
) -> None:
    page.get_by_role("button", name="dog").click()
    expect(page.locator(".caption button:enabled").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".busy")).to_have_text("", timeout=PATIENCE)
    left_to_browser = page.evaluate(PASTE, [text, html, name, list(HORSES.read_bytes())])
    assert left_to_browser == stays_text
    if stays_text:
        assert page.locator(".busy").inner_text() == ""
        assert page.locator(".picture img").get_attribute("alt") == "dog.jpg"
    else:
        assert_captioned(page, horses_caption)


def test_text_can_be_dragged_into_the_question_box(page: Page) -> None:
    page.get_by_role("button", name="dog").click()
    page.locator(".caption button:enabled").first.wait_for()
    left_to_browser = page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.setData("text/plain", "what is on the grass?");
          const box = document.querySelector("#vlm-question");
          return ["dragover", "drop"].map((kind) => box.dispatchEvent(
            new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })));
        }"""
    )
    assert left_to_browser == [True, True]
    assert page.locator(".message").is_hidden()


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


def test_only_uploaded_files_can_be_read(app_address: str) -> None:
    """The path of any other file of the server's, though it be a photo, gets nothing of it."""
    reply = completed(app_address, "photo", {"path": str(DOG), "name": "dog.jpg"})
    assert not reply["success"]
    assert "data" not in reply["output"]


def test_a_defect_becomes_a_sentence_on_the_page(app_address: str) -> None:
    (view,) = completed(app_address, "example", {"index": 999})["output"]["data"]
    assert view["message"] == "defect"
    assert view["photo"] is None
