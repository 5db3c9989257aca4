"""Documents on the page: brought, answered from, cited, removed; and a folder that goes with its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from app_server import PATIENCE
from PIL import ExifTags, Image
from playwright.sync_api import Page, expect

from vlm.app.cited import pieces
from vlm.app.component import document_kinds
from vlm.app.shelf import KINDS, Shelf, change_shelf
from vlm.captioner import Captioner
from vlm.documents.document_files import DocumentError
from vlm.documents.vectors import MINILM, Vectors
from vlm.engine import Engine

QUESTION = "is there a dog?"
TEXT = "The black Cat is a dog. Two men run."


class Flat:
    """Vectors that say nothing, so that no weights are loaded."""

    space = MINILM

    def encode(self, texts: list[str]) -> Vectors:
        return np.full((len(texts), MINILM.width), MINILM.width**-0.5, dtype=np.float32)


def test_bad_files_are_a_sentence_each_and_the_others_stay(tmp_path: Path) -> None:
    contents = {
        "a.txt": TEXT,
        "empty.txt": "",
        "b.pdf": "no PDF",
        "c.xyz": "a word",
        "d.md": "# Men run",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    shelf = Shelf()
    files = [(tmp_path / name, f"own {name}") for name in [*contents, "gone.txt"]]
    problems = shelf.add(files, Flat())
    assert [source["name"] for source in shelf.listed()] == ["own a.txt", "own d.md"]
    named = ["own empty.txt", "own b.pdf", "own c.xyz", "own gone.txt"]
    assert len(problems) == len(named)
    for problem, name in zip(problems, named):
        assert problem.startswith(f"“{name}”")
        assert problem.endswith(".")
        assert str(tmp_path) not in problem


def test_a_file_of_the_same_name_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    shelf = Shelf()
    for text in ("one dog", "two men"):
        file.write_text(text)
        assert shelf.add([(file, "a.txt")], Flat()) == []
    assert shelf.index is not None
    assert [passage.text for passage in shelf.index.passages("a.txt")] == ["two men"]
    shelf.remove("a.txt")
    assert len(shelf) == 0
    assert shelf.listed() == []


def test_the_folder_goes_with_the_shelf(tmp_path: Path) -> None:
    def folder_of_a_shelf() -> Path:
        (tmp_path / "a.txt").write_text(TEXT)
        shelf = Shelf()
        shelf.add([(tmp_path / "a.txt", "a.txt")], Flat())
        assert shelf.index is not None
        assert Path(shelf.index.path).exists()
        return Path(shelf.index.path).parent

    with pytest.warns(ResourceWarning):
        folder = folder_of_a_shelf()
    assert not folder.exists()


def test_none_but_uploaded_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    asked = {"files": [{"path": str(tmp_path / "a.txt"), "name": "a.txt"}]}
    with pytest.raises(DocumentError, match="only files that were uploaded"):
        change_shelf(Shelf(), asked, Flat())


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("The Cat.", [("the", 1.0), ("cat.", 0.5)], [("The", 1), (" ", None), ("Cat.", 0.5)]),
        ("a dog, a cat", [("a", 0.2), ("cat", 0.4)], [("a dog, ", None), ("a", 0.5), (" ", None), ("cat", 1)]),
        ("no words", [], [("no words", None)]),
        ("other", [("word", 1.0)], [("other", None)]),
        ("İ a dog", [("dog", 0.0)], [("İ a ", None), ("dog", 0)]),
    ],
)  # fmt: skip
def test_pieces_are_the_whole_text(text: str, words: list, expected: list) -> None:
    found = pieces(text, words)
    assert found == expected
    assert "".join(piece for piece, _ in found) == text


@pytest.mark.parametrize("width", [1280, 375])
def test_a_document_is_brought_answered_from_cited_and_removed(
    open_page, tmp_path: Path, width: int
) -> None:
    page: Page = open_page(viewport={"width": width, "height": 860})
    page.locator(".examples button").nth(2).click()
    page.locator(".key span").first.wait_for()
    (tmp_path / "notes of the park.txt").write_text(TEXT)
    (tmp_path / "empty.txt").write_text("")
    files = [tmp_path / "notes of the park.txt", tmp_path / "empty.txt"]
    page.get_by_label("Add documents").set_input_files(files)
    expect(page.locator(".volumes li")).to_have_count(1)
    expect(page.locator(".volumes li")).to_contain_text("notes of the park.txt1 passage")
    expect(page.locator(".shelf .state")).to_have_text("Documents: 1, passages: 1")
    expect(page.locator(".problems li")).to_have_text(["“empty.txt” is empty."])

    answers = page.locator(".answers > li")
    ask(page, QUESTION)
    expect(answers).to_have_count(1, timeout=PATIENCE)
    expect(answers.first.locator(".citation")).to_have_text(
        ["Stands in notes of the park.txt."], timeout=PATIENCE
    )
    sources = answers.first.locator(".rests-on > li")
    assert sources.locator(".place-name").all_inner_texts()[0] == "Photo"
    cited = answers.first.locator(".cited")
    expect(cited.locator("details")).to_have_attribute("open", "")
    assert cited.locator("blockquote").text_content() == TEXT
    assert cited.locator("mark").count() > 0
    expect(page.locator(".spoken p").nth(1)).to_contain_text("Stands in notes of the park.txt.")
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.get_by_role("button", name="Remove notes of the park.txt").click()
    expect(page.locator(".volumes li")).to_have_count(0)
    expect(page.get_by_label("Add documents")).to_be_focused()
    ask(page, QUESTION)
    expect(answers).to_have_count(2, timeout=PATIENCE)
    expect(answers.first.locator(".citation")).to_have_count(0)


@pytest.mark.parametrize("width", [1280, 375])
def test_documents_are_asked_without_a_photo_and_stay_when_one_comes(
    open_page, tmp_path: Path, width: int
) -> None:
    page: Page = open_page(viewport={"width": width, "height": 860})
    question, answers = page.locator("#vlm-question"), page.locator(".answers > li")
    expect(question).to_be_hidden()
    (tmp_path / "notes.txt").write_text(TEXT)
    page.get_by_label("Add documents").set_input_files(tmp_path / "notes.txt")
    expect(page.locator(".volumes li")).to_have_count(1)
    expect(page.locator("label[for=vlm-question]")).to_have_text("Ask the documents")
    expect(page.locator(".ask fieldset")).to_be_hidden()
    expect(page.locator(".message")).to_be_hidden()

    ask(page, QUESTION)
    expect(answers).to_have_count(1, timeout=PATIENCE)
    expect(answers.first.locator(".citation")).not_to_be_empty()
    expect(answers.first.locator(".answer button").first).to_be_disabled()  # it has no map
    sources = answers.first.locator(".rests-on .place-name")
    assert sources.all_inner_texts() == ["notes.txt"]
    expect(page.locator(".picture")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.locator(".examples button").nth(2).click()
    page.locator(".key span").first.wait_for()
    expect(answers).to_have_count(0)
    expect(page.locator(".volumes li")).to_have_count(1)
    ask(page, QUESTION)
    expect(answers).to_have_count(1, timeout=PATIENCE)
    assert answers.first.locator(".place-name").all_inner_texts()[0] == "Photo"


def test_what_the_photos_file_says_is_read_where_it_is_wished_for(
    open_page, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:03 14:05:00"
    Image.effect_noise((96, 64), 90).convert("RGB").save(tmp_path / "dated.jpg", exif=exif)
    page: Page = open_page()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "dated.jpg")
    page.locator(".key span").first.wait_for()
    answers, wish = page.locator(".answers > li"), page.locator(".metadata input")
    ask(page, QUESTION)
    expect(answers).to_have_count(1, timeout=PATIENCE)
    expect(answers.first.locator(".rests-on > li")).to_have_count(0)
    wish.check()
    ask(page, QUESTION)
    expect(answers).to_have_count(2, timeout=PATIENCE)
    sources = answers.first.locator(".rests-on .place-name")
    expect(sources).to_have_text(["Photo", "the photo's date"], timeout=PATIENCE)

    page.locator(".examples button").nth(2).click()
    expect(answers).to_have_count(0)
    page.locator(".key span").first.wait_for()
    ask(page, QUESTION)
    expect(answers).to_have_count(1, timeout=PATIENCE)
    expect(page.locator(".message")).to_contain_text("has no metadata", timeout=PATIENCE)


def ask(page: Page, question: str) -> None:
    page.locator(".working").wait_for(state="detached")
    page.locator("#vlm-question").fill(question)
    page.keyboard.press("Enter")


def test_only_a_model_that_reads_documents_has_a_shelf(tiny: Captioner, reading: Captioner) -> None:
    for captioner, kinds in ((tiny, []), (reading, list(KINDS))):
        with Engine(captioner) as engine:
            assert document_kinds(engine) == kinds
