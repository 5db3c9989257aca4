"""Files as passages: plain text, Markdown, HTML, PDF and docx, each read by a library that many keep well."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import regex

from vlm.documents.passages import Passage, cut
from vlm.errors import UserError, how_to_install
from vlm.images.files import LeftOut, Listing, files_below, is_glob, matches

MAX_BYTES = 200_000_000  # of a file, and of what a docx holds: it is in memory while it is read

_BROKEN_WORD = regex.compile(r"(?<=\p{Ll})-\n(?=\p{Ll})")
_OLE = b"\xd0\xcf\x11\xe0"  # the container of old Office files, and of new ones with a password


class DocumentError(UserError):
    """A document or an index that cannot be read, or a search that asks for nothing; the message says why."""


class Page(NamedTuple):
    """A page's text; `number` counts from 1, and is None for the whole of a document without pages."""

    number: int | None
    text: str


def read_document(path: str) -> tuple[list[Passage], str | None]:
    """The passages of a file, whose source is its path as given, and a sentence on pages without text, if some are.

    Raises DocumentError for a file of another kind, and for one that is damaged, empty, scanned, protected by a
    password or too large; OSError where it may not be read.
    """
    pages = list(pages_of(path))
    passages = [passage for page in pages for passage in cut(page.text, path, page.number)]
    without = [page.number for page in pages if not page.text.strip()]
    if not passages:
        if pages and pages[0].number is not None:
            raise DocumentError(
                f"{path} has no text on its pages; if it is scanned, let a program such as ocrmypdf read it first"
            )
        raise DocumentError(f"{path} is empty: it has no words")
    if not without:
        return passages, None
    named = ", ".join(map(str, without[:10])) + (", ..." if len(without) > 10 else "")
    return passages, (
        f"{path}: {len(without)} of {len(pages)} pages have no text that can be read (page {named}); they are left out"
    )


def pages_of(path: str) -> Iterator[Page]:
    """The text that passages' offsets count in, page by page. Raises what `read_document` raises."""
    read = READERS.get(_extension(path))
    if read is None:
        raise DocumentError(
            f"{path} is of a kind that is not read; save it as one of {', '.join(READERS)}"
        )
    size = os.path.getsize(path)
    if size == 0:
        raise DocumentError(f"{path} is empty")
    if size > MAX_BYTES:
        raise DocumentError(
            f"{path} has {size / 1e6:,.0f} MB, {MAX_BYTES / 1e6:,.0f} is the most; split it into several files"
        )
    try:
        for page in read(path):
            # Lone surrogates and NUL, which PDFs have, would stop the database.
            text = page.text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
            yield Page(page.number, text)
    except (DocumentError, OSError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise DocumentError(
            f"{path} needs the package {error.name}; {how_to_install('documents')}"
        ) from None
    except (
        Exception
    ) as error:  # whatever a library raises for a file that is not what its name says
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        kind = _extension(path)[1:]
        raise DocumentError(f"{path} is damaged, or no {kind} file ({reason})") from None


def find_documents(arguments: Sequence[str]) -> Listing:
    """The documents that paths, folders and globs stand for, known by their extension, as `find_images` finds images.

    A file is taken as it is; a name that stands for none is a sentence among the problems.
    """
    files: dict[str, None] = {}
    problems: list[str] = []
    left_out = LeftOut()
    for argument in arguments:
        if os.path.isdir(argument):
            below = files_below(argument, left_out, problems)
        elif os.path.exists(argument):
            files[argument] = None
            continue
        elif is_glob(argument):
            below = matches(argument, left_out, problems)
        else:
            problems.append(f"{argument}: no such file")
            continue
        found = []
        for file in below:
            if _extension(file) in READERS:
                found.append(file)
            else:
                left_out.add(file)
        if not found:
            problems.append(f"{argument}: no document there ({', '.join(READERS)})")
        files |= dict.fromkeys(sorted(found))
    return Listing(list(files), problems, left_out)


def _read_text(path: str) -> Iterator[Page]:
    yield Page(None, _decoded(path))


def _read_markdown(path: str) -> Iterator[Page]:
    """What a reader sees of it: the text of the HTML that it stands for."""
    from markdown_it import MarkdownIt

    yield Page(None, _text_of_html(MarkdownIt().enable("table").render(_decoded(path)).encode()))


def _read_html(path: str) -> Iterator[Page]:
    yield Page(None, _text_of_html(Path(path).read_bytes()))


def _text_of_html(data: bytes) -> str:
    from inscriptis import Inscriptis
    from lxml.html import HTMLParser, document_fromstring

    try:
        data.decode("utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = None  # the one that the page declares
    if not data.strip():
        return ""
    tree = document_fromstring(data, parser=HTMLParser(encoding=encoding))
    text = Inscriptis(tree).get_text()
    return regex.sub(r"[^\S\n]+", " ", text)  # the layout of columns and lists


def _read_pdf(path: str) -> Iterator[Page]:
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of each oddity of a file
    reader = PdfReader(path)
    # Many have a password for changes alone, which opens without one.
    if reader.is_encrypted and not reader.decrypt(""):
        raise DocumentError(f"{path} is protected by a password; save a copy without one")
    for number, page in enumerate(reader.pages, start=1):
        try:
            text = page.extract_text()
        except Exception:  # one bad page leaves the others; it is told as a page without text
            text = ""
        yield Page(number, _BROKEN_WORD.sub("", text))


def _read_docx(path: str) -> Iterator[Page]:
    import docx
    from docx.table import Table

    with open(path, "rb") as file:
        if file.read(4) == _OLE:
            raise DocumentError(
                f"{path} is protected by a password, or an old .doc; save a copy as .docx without one"
            )
    with zipfile.ZipFile(path) as parts:
        if sum(part.file_size for part in parts.infolist()) > MAX_BYTES:
            raise DocumentError(f"{path} unpacks to more than {MAX_BYTES / 1e6:,.0f} MB; split it")
    lines = []
    for block in docx.Document(path).iter_inner_content():
        if isinstance(block, Table):
            lines += [" ".join(cell.text for cell in row.cells) for row in block.rows]
        else:
            lines.append(block.text)
    yield Page(None, "\n\n".join(lines))


def _decoded(path: str) -> str:
    data = Path(path).read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DocumentError(f"{path} is not text in UTF-8; save it as that")
    return text


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


READERS: dict[str, Callable[[str], Iterator[Page]]] = {
    ".txt": _read_text,
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
}
