"""The app as a process of its own, a browser before it, and what both need."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from benchmarks.running import running_app
from vlm.answers import Answer

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 60_000  # ms; a busy machine is slow, not wrong


@contextmanager
def serving(model: Path, *options: str) -> Iterator[tuple[str, int]]:
    """The app as a user starts it, on a free port: its address and the process's id."""
    with running_app("--model", str(model), *options) as running:
        yield running


@contextmanager
def browsing(*extra: str) -> Iterator[Browser]:
    """The system's Chromium, or Playwright's."""
    names = ("chromium", "chromium-browser", "google-chrome")
    installed = next((path for path in map(shutil.which, names) if path), None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-dev-shm-usage"]  # containers have 64 MB of it, and tabs crash beyond
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags += extra
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=installed, args=flags, timeout=PATIENCE
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Open pages of the app, each in a session of its own; they ask nothing of other hosts and report no errors."""
    troubles: list[str] = []
    contexts: list[BrowserContext] = []

    def open_one(**options: Any) -> Page:
        contexts.append(
            browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        )
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


def is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"


def choose_file(page: Page, path: Path) -> None:
    page.locator("input.file").set_input_files(path)


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
          const canvas = document.querySelector(".picture .heat");
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
