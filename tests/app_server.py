"""The app as a process of its own, a browser before it, and what both need."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from vlm.answers import Answer

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 60_000  # ms; a busy machine is slow, not wrong


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(model: Path, *options: str) -> Iterator[tuple[str, int]]:
    """The app as a user starts it, on a free port: its address and the process's id."""
    port = free_port()
    command = [sys.executable, "app.py", "--model", str(model), "--port", str(port), *options]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert f"http://127.0.0.1:{port}" in line
            yield f"http://127.0.0.1:{port}/", process.pid
        finally:
            process.terminate()


@contextmanager
def browsing() -> Iterator[Browser]:
    """The system's Chromium, or Playwright's."""
    names = ("chromium", "chromium-browser", "google-chrome")
    installed = next((path for path in map(shutil.which, names) if path), None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=flags)
        try:
            yield browser
        finally:
            browser.close()


def choose_file(page: Page, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def assert_captioned(page: Page, caption: Answer) -> None:
    expect(page.locator(".caption > *")).to_have_text(
        [word.text for word in caption.words], timeout=PATIENCE
    )
    expect(page.locator(".caption button:disabled")).to_have_count(0, timeout=PATIENCE)
    expect(page.locator(".busy")).to_have_text("", timeout=PATIENCE)
