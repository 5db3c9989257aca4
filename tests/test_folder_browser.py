"""The Folder tab in a browser, as a person uses it."""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from pathlib import Path

from app_server import REPOSITORY
from playwright.sync_api import Page, expect

import vlm

EXAMPLES = REPOSITORY / "assets" / "examples"


# Tabs hide what is too wide instead of scrolling, so the page's width does not tell.
WIDER = """(tab) => [...document.querySelectorAll(`${tab} *`)]
  .filter((e) => !e.parentElement.closest(".table") && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map((e) => e.outerHTML.slice(0, 120))"""


def test_a_folder_is_captioned_mended_and_taken_home(
    page: Page, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pets = tmp_path / "pets"
    pets.mkdir()
    for name in ("dog.jpg", "horses.jpg", "kitten.jpg"):
        shutil.copy(EXAMPLES / name, pets / name)
    (pets / "broken.jpg").write_text("no photo")
    captioner = vlm.load(tiny_checkpoint)
    said = {
        p: captioner.encode(pets / p).caption().text
        for p in ("dog.jpg", "horses.jpg", "kitten.jpg")
    }
    page.get_by_role("tab", name="Folder").click()
    tab = page.locator("#vlm-folder-table")
    rows = tab.locator("tbody tr")

    # Photos come, and are captioned when they are asked to; a broken one is named.
    tab.locator("input.directory").set_input_files(pets)
    expect(rows).to_have_count(4)
    assert [
        row.split("/")[-1] for row in tab.locator("tbody td:nth-child(2) small").all_inner_texts()
    ] == [
        "broken.jpg",
        *said,
    ]
    tab.get_by_role("button", name="Caption", exact=True).click()
    expect(tab.locator("[role=status]")).to_contain_text(
        "3 of 4 photos have their caption. 1 cannot be read."
    )
    words = tab.locator("textarea:visible")
    expect(words).to_have_count(3)
    assert [words.nth(n).input_value() for n in range(3)] == list(said.values())
    expect(rows.nth(0)).to_contain_text("not an image")

    # One is written by hand, found, replaced in, taken back.
    words.nth(0).fill("my good dog")
    words.nth(0).blur()
    expect(tab.locator(".count")).to_contain_text("1 edited")
    tab.locator("summary", has_text="Find and sort").click()
    tab.get_by_label("Text", exact=True).fill("GOOD")
    tab.get_by_label("Text", exact=True).press("Enter")
    expect(rows).to_have_count(1)
    tab.locator("summary", has_text="Find and replace").click()
    tab.get_by_label("Find", exact=True).fill(r"(my) good")
    tab.get_by_label("Replace by").fill(r"\1 best")
    tab.get_by_label("Regular expression").check()
    tab.get_by_role("button", name="Preview").click()
    expect(tab.locator(".preview ins")).to_have_text("my best dog")
    expect(words.nth(0)).to_have_value("my good dog")
    tab.get_by_role("button", name="Replace", exact=True).click()
    expect(tab.locator("[role=status]")).to_contain_text("1 captions changed")
    tab.get_by_label("Text", exact=True).fill("")
    tab.get_by_label("Text", exact=True).press("Enter")
    expect(rows).to_have_count(4)
    expect(words.nth(0)).to_have_value("my best dog")
    tab.get_by_role("button", name="Undo").click()
    expect(words.nth(0)).to_have_value("my good dog")
    tab.get_by_label("Find", exact=True).fill("(")
    tab.get_by_role("button", name="Preview").click()
    expect(tab.get_by_role("alert")).to_contain_text("is no regular expression")

    # A chosen row is captioned anew; the others keep what was done to them.
    tab.get_by_label("Choose pets/kitten.jpg").check()
    tab.get_by_label("Captions a photo").fill("2")
    tab.get_by_role("button", name="Caption 1 chosen rows anew").click()
    expect(rows.nth(3).locator(".others")).to_contain_text("or ")
    expect(words.nth(0)).to_have_value("my good dog")

    # Nothing was written so far; now a zip is.
    assert {path.name for path in pets.iterdir()} == {"broken.jpg", *said}
    tab.get_by_label("Trigger word").fill("sks")
    tab.get_by_label(".txt beside each photo").check()
    tab.get_by_role("button", name="Write").click()
    with page.expect_download() as download:
        tab.locator("a.file").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert texts["pets/dog.txt"] == "sks, my good dog\n"
    table = list(csv.DictReader(io.StringIO(texts["captions.csv"])))
    assert [row["image"] for row in table] == [f"pets/{name}" for name in said]
    assert [row["caption"] for row in table][:2] == [
        "sks, my good dog",
        f"sks, {said['horses.jpg']}",
    ]
    assert table[2]["caption_2"].startswith("sks, ")

    # Two settings are compared on it.
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare on the folder").click()
    compared = page.locator("#vlm-compare .folder")
    expect(compared.locator("tbody tr")).to_have_count(3)
    expect(compared.get_by_role("status")).to_contain_text("Of 3 photos")
    with page.expect_download() as download:
        compared.locator("a.file").click()
    rows_of = csv.DictReader(io.StringIO(Path(download.value.path()).read_text()))
    assert {row["image"]: row["first"] for row in rows_of} == {
        f"pets/{name}": caption for name, caption in said.items()
    }

    # On a phone nothing is wider than the screen: of this tab but the table, which scrolls, and of the folder's.
    page.set_viewport_size({"width": 375, "height": 800})
    assert page.evaluate(WIDER, "#vlm-compare") == []
    page.get_by_role("tab", name="Folder").click()
    for closed in tab.locator("details:not([open]) > summary:visible").all():
        closed.click()
    assert page.evaluate(WIDER, "#vlm-folder-table") == []
