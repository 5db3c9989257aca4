"""Take the pictures of the app that README and docs show: `python -m assets.screenshot` writes all of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from playwright.sync_api import Page, sync_playwright

from benchmarks.running import ROOT, running_app

# What stands beside the photo in one of the pictures: one passage has the answer.
NOTES = """The dog is called Betjeax. It belongs to Mrs Quealin.

The cat is called Holid. Everyone feeds it.

The house was built in 1874.
"""


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
    options = ("--model", model) if model else ()
    with running_app(*options) as (address, _), sync_playwright() as playwright:
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
        page.goto(address)
        page.get_by_role("button", name=example).click()
        page.locator(".key span").first.wait_for()
        ask(page, question)
        chosen = page.locator(".caption button").get_by_text(word, exact=True).first
        chosen.click()
        page.mouse.move(0, 0)
        page.screenshot(path=folder / "assets" / "screenshot.png")

        with TemporaryDirectory() as there:
            notes = Path(there) / "notes.txt"
            notes.write_text(NOTES)
            page.locator("input.documents").set_input_files(notes)
            page.locator(".volumes li").wait_for()
        ask(page, "what is the dog called?")
        page.locator(".reading").screenshot(path=folder / "docs" / "documents.png")
        page.get_by_role("button", name="Remove notes.txt").click()

        page.get_by_label("Check my own text").check()
        ask(page, "a cat on the grass")
        page.screenshot(path=folder / "docs" / "app.jpg", quality=85)

        chosen.click()  # which questions have taken the place of
        page.get_by_role("button", name="Inside").click()
        page.locator(".step").nth(2).wait_for()
        # The panel stays in sight as the page scrolls, and is cut off where it is higher than that.
        page.set_viewport_size({"width": width, "height": 2 * height})
        page.locator("#vlm-panel-inside").screenshot(path=folder / "docs" / "inside.png")
        page.set_viewport_size({"width": width, "height": height})

        page.get_by_role("tab", name="Compare").click()
        page.get_by_role("button", name="Compare", exact=True).click()
        page.locator(".side").nth(1).wait_for()
        page.locator(".side").first.get_by_text(word, exact=True).first.click()
        page.screenshot(path=folder / "docs" / "compare.jpg", quality=85)

        page.get_by_role("tab", name="Folder").click()
        photos(page, sorted((ROOT / "assets" / "examples").glob("*.jpg")))
        page.screenshot(path=folder / "docs" / "folder.jpg", quality=85)
        browser.close()


def photos(page: Page, files: list[Path]) -> None:
    """Caption a folder's photos, and ask for find and replace."""
    table = page.locator("#vlm-folder-table")
    table.locator("input.files").set_input_files(files)
    table.locator("tbody tr").nth(len(files) - 1).wait_for()
    table.get_by_role("button", name="Caption", exact=True).click()
    table.locator("textarea:visible").nth(len(files) - 1).wait_for()
    table.locator("summary", has_text="Find and replace").click()
    table.get_by_label("Find", exact=True).fill("a ")
    table.get_by_label("Replace by").fill("one ")
    table.get_by_role("button", name="Preview").click()
    table.locator(".preview li").first.wait_for()


def ask(page: Page, question: str) -> None:
    count = page.locator(".answers li").count()
    page.locator("#vlm-question").fill(question)
    page.keyboard.press("Enter")
    page.locator(".answers li").nth(count).wait_for()
    page.wait_for_timeout(1000)  # what the image did for the words comes last


if __name__ == "__main__":
    typer.run(main)
