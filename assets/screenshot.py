"""Take the README's picture of the app: `python assets/screenshot.py` writes assets/screenshot.png."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import sync_playwright

ASSETS = Path(__file__).resolve().parent


def main(
    model: Annotated[str | None, typer.Option(help="By default the bundled model.")] = None,
    example: Annotated[str, typer.Option(help="Name of an example photo.")] = "dog",
    word: Annotated[str, typer.Option(help="A word of the caption, whose heatmap shows.")] = "dog",
    question: Annotated[str, typer.Option()] = "what animal is it?",
    width: Annotated[int, typer.Option(help="360 is a phone.")] = 1200,
    height: Annotated[int, typer.Option()] = 720,
    dark: bool = False,
    out: Path = ASSETS / "screenshot.png",
) -> None:
    """Start the app, caption a photo, ask a question, choose a word and take a picture."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "app.py", "--port", port, *(["--model", model] if model else [])]
    with subprocess.Popen(command, cwd=ASSETS.parent, stdout=subprocess.PIPE) as app:
        assert app.stdout
        app.stdout.readline()  # it is being served
        try:
            with sync_playwright() as playwright:
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
                page.set_default_timeout(120_000)
                page.goto(f"http://127.0.0.1:{port}")
                page.get_by_role("button", name=example).click()
                page.locator(".caption button:enabled").first.wait_for()
                page.get_by_label("Ask about the photo").fill(question)
                page.get_by_role("button", name="Ask").click()
                page.locator(".answers li").wait_for()
                page.locator(".caption").get_by_role("button", name=word, exact=True).first.click()
                page.mouse.move(0, 0)
                page.screenshot(path=out)
        finally:
            app.terminate()


if __name__ == "__main__":
    typer.run(main)
