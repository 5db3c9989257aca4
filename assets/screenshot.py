"""Take the pictures of the app that README and docs show: `python assets/screenshot.py` writes all of them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent


def main(
    model: Annotated[str | None, typer.Option(help="By default the bundled model.")] = None,
    example: Annotated[str, typer.Option(help="Name of an example photo.")] = "dog",
    word: Annotated[str, typer.Option(help="A word of the caption, whose heatmap shows.")] = "dog",
    question: Annotated[str, typer.Option()] = "what animal is it?",
    width: Annotated[int, typer.Option(help="375 is a phone.")] = 1200,
    height: Annotated[int, typer.Option()] = 760,
    dark: bool = False,
    folder: Annotated[Path, typer.Option(help="Where assets/ and docs/ are.")] = ROOT,
) -> None:
    """Start the app, caption a photo, ask a question, choose a word and take pictures of what it shows."""
    with serving(model) as address, sync_playwright() as playwright:
        installed = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(
            executable_path=installed, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            device_scale_factor=2,
            reduced_motion="reduce",
        )
        page.set_default_timeout(240_000)
        page.goto(address)
        page.get_by_role("button", name=example).click()
        page.locator(".key span").first.wait_for()
        ask(page, question)
        page.locator(".caption button").get_by_text(word, exact=True).first.click()
        page.mouse.move(0, 0)
        page.screenshot(path=folder / "assets" / "screenshot.png")

        page.get_by_label("Check my own text").check()
        ask(page, "a cat on the grass")
        page.screenshot(path=folder / "docs" / "app.jpg", quality=85)

        page.get_by_role("button", name="Inside").click()
        page.locator(".step").nth(2).wait_for()
        page.locator("#vlm-panel-inside").screenshot(path=folder / "docs" / "inside.png")

        page.get_by_role("tab", name="Compare").click()
        page.get_by_role("button", name="Compare", exact=True).click()
        page.locator(".side").nth(1).wait_for()
        page.locator(".side").first.get_by_text(word, exact=True).first.click()
        page.screenshot(path=folder / "docs" / "compare.jpg", quality=85)
        browser.close()


def ask(page: Page, question: str) -> None:
    count = page.locator(".answers li").count()
    page.locator("#vlm-question").fill(question)
    page.keyboard.press("Enter")
    page.locator(".answers li").nth(count).wait_for()
    page.wait_for_timeout(1000)  # what the image did for the words comes last


@contextmanager
def serving(model: str | None) -> Iterator[str]:
    """The app on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "app.py", "--port", port, *(["--model", model] if model else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as app:
        assert app.stdout
        app.stdout.readline()  # it is being served
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            app.terminate()


if __name__ == "__main__":
    typer.run(main)
