"""Documents as passages: what each kind of file says, and one sentence for each that says nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import pytest
from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen.canvas import Canvas

from vlm.documents.document_files import DocumentError, find_documents, pages_of, read_document

FACT = "The mill at Orsk was built in 1823 by Anna Vost."


def write_pdf(path: Path, pages: list[str]) -> None:
    canvas = Canvas(str(path))
    for page in pages:
        for number, line in enumerate(page.splitlines()):
            canvas.drawString(50, 700 - 15 * number, line)
        canvas.showPage()
    canvas.save()


def write_docx(path: Path) -> None:
    document = docx.Document()
    document.add_heading("Mills")
    document.add_paragraph(FACT)
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "wheel", "forty crowns"
    document.save(str(path))


@pytest.mark.parametrize("ending", [".txt", ".TXT", ".md", ".html", ".pdf", ".docx"])
def test_each_kind_says_its_fact(tmp_path, ending):
    path = tmp_path / f"mill{ending}"
    if ending == ".pdf":
        write_pdf(path, ["A page before it.", FACT])
    elif ending == ".docx":
        write_docx(path)
    elif ending == ".html":
        path.write_text(
            f"<head><style>p {{}}</style></head><p>The <b>mill</b>{FACT[8:]}<script>x()</script>"
        )
    elif ending == ".md":
        path.write_text(
            f"# Mills\n\nThe **mill**{FACT[8:]} [more](http://x.example)\n\n| a | b |\n|-|-|\n| c | d |"
        )
    else:
        path.write_text(FACT)
    passages, problem = read_document(str(path))
    assert problem is None
    (passage,) = [p for p in passages if FACT in p.text]
    pages = {page.number: page.text for page in pages_of(str(path))}
    assert pages[passage.page][passage.start : passage.end] == passage.text
    assert passage.page == (2 if ending == ".pdf" else None)
    assert passage.source == str(path)
    everything = " ".join(p.text for p in passages)
    assert not any(sign in everything for sign in ("**", "x()", "{}", "http", "|", "<"))
    if ending == ".docx":
        assert "wheel forty crowns" in everything


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_in_unicode(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_text("Die Mühle in Örsk.", encoding=encoding)
    assert read_document(str(path))[0][0].text == "Die Mühle in Örsk."


@pytest.mark.parametrize(
    "page",
    ["<p>Mühle</p>".encode(), '<meta charset="iso-8859-1"><p>Mühle</p>'.encode("latin-1")],
)
def test_html_in_what_it_declares_or_utf_8(tmp_path, page):
    path = tmp_path / "a.html"
    path.write_bytes(page)
    assert read_document(str(path))[0][0].text == "Mühle"


def protected(path: Path, password: str) -> None:
    write_pdf(path, [FACT])
    writer = PdfWriter(PdfReader(path))
    writer.encrypt(password, "owner")
    writer.write(path)


def scanned(path: Path) -> None:
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(path)


def cut_short(path: Path) -> None:
    write_docx(path)
    path.write_bytes(path.read_bytes()[:2000])


def no_docx(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "nothing": ("a.txt", lambda path: path.touch(), "is empty"),
    "blank": ("a.md", lambda path: path.write_text(" \n\n"), "is empty"),
    "an empty pdf": ("a.pdf", lambda path: path.touch(), "is empty"),
    "an empty page": ("a.html", lambda path: path.write_text("<html></html>"), "is empty"),
    "a comment": ("a.html", lambda path: path.write_text("<!-- -->"), "is empty"),
    "blank html": ("a.html", lambda path: path.write_text("\n"), "is empty"),
    "latin-1": (
        "a.txt",
        lambda path: path.write_bytes("Mühle".encode("latin-1")),
        "not text in UTF-8",
    ),
    "a program": ("a.txt", lambda path: path.write_bytes(b"\x7fELF\0\0"), "not text in UTF-8"),
    "no pdf": ("a.pdf", lambda path: path.write_text("hello"), "is damaged"),
    "half a pdf": ("a.pdf", lambda path: path.write_bytes(b"%PDF-1.7\n1 0 obj\n<<"), "is damaged"),
    "scanned": ("a.pdf", scanned, "scanned"),
    "a secret": ("a.pdf", lambda path: protected(path, "secret"), "password"),
    "a secret docx": ("a.docx", lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0" * 9), "password"),
    "half a docx": ("a.docx", cut_short, "is damaged"),
    "another zip": ("a.docx", no_docx, "is damaged"),
    "a spreadsheet": ("a.xlsx", no_docx, "kind that is not read"),
    "no ending": ("README", lambda path: path.write_text("hi"), "kind that is not read"),
}


@pytest.mark.parametrize(("name", "make", "said"), BAD.values(), ids=BAD)
def test_what_says_nothing_is_one_sentence(tmp_path, name, make, said):
    path = tmp_path / name
    make(path)
    with pytest.raises(DocumentError, match=said) as told:
        read_document(str(path))
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)


def test_a_password_for_changes_alone_is_no_hindrance(tmp_path):
    protected(tmp_path / "a.pdf", "")
    assert FACT in read_document(str(tmp_path / "a.pdf"))[0][0].text


def test_pages_without_text_are_told(tmp_path):
    path = tmp_path / "a.pdf"
    write_pdf(path, [FACT, "", "The end."])
    passages, problem = read_document(str(path))
    assert [p.page for p in passages] == [1, 3]
    assert "1 of 3 pages have no text that can be read (page 2)" in problem


def test_words_broken_at_a_line_s_end_are_whole(tmp_path):
    path = tmp_path / "a.pdf"
    write_pdf(path, ["The foun-\ndation of the T-\n1000"])
    assert "foundation" in read_document(str(path))[0][0].text


def test_folders_globs_and_files(tmp_path):
    for name in ("b.txt", "a.md", ".hidden.txt", "photo.jpg", "deep/c.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(FACT)
    listing = find_documents(
        [str(tmp_path), str(tmp_path / "b.txt"), str(tmp_path / "*.md"), "gone"]
    )
    assert [Path(file).name for file in listing.files] == ["a.md", "b.txt", "c.html"]
    assert listing.problems == ["gone: no such file"]
    assert listing.left_out.total() == 2
