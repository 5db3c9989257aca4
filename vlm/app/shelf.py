"""The documents on a page's shelf: an index of its own, in a temporary folder that goes with the page."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gradio.utils import get_upload_folder

from vlm.documents.document_files import READERS, DocumentError, read_document
from vlm.documents.vectors import Encoder
from vlm.errors import how_to_install

if TYPE_CHECKING:  # an index needs packages of an extra
    from vlm.documents.index import Index

KINDS = tuple(READERS)
MOST_DOCUMENTS = 100
MOST_PASSAGES = 20_000  # about a minute's reading

View = dict[str, Any]


class Shelf:
    """What one page's questions are answered from beside its photo. Deleted when nobody refers to it any more."""

    def __init__(self) -> None:
        self.index: Index | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()  # whoever adds has it

    def __len__(self) -> int:
        """The number of passages."""
        return 0 if self.index is None else len(self.index)

    def listed(self) -> list[View]:
        """The documents by name, each with the number of its passages."""
        sources = [] if self.index is None else self.index.sources()
        return [{"name": source.name, "passages": source.passages} for source in sources]

    def add(self, files: Sequence[tuple[Path, str]], encoder: Encoder) -> list[str]:
        """Put files on the shelf, each under the name that a person knows it by, in place of one of that name.

        What cannot be read, in part or at all, is a sentence each. Raises DocumentError where packages are missing.
        """
        problems: list[str] = []
        with self._lock:
            index = self._opened(encoder)
            for path, name in files:
                try:
                    problem = _put(index, path, name)
                except DocumentError as error:
                    problem = str(error)
                except OSError as error:
                    problem = f"{path} cannot be read: {error.strerror or error}"
                if problem is not None:
                    problems.append(problem.replace(str(path), f"“{name}”") + ".")
        return problems

    def remove(self, name: str) -> None:
        """Take a document off the shelf."""
        if self.index is not None:
            self.index.delete(name)

    def _opened(self, encoder: Encoder) -> Index:
        if self.index is None:
            try:
                from vlm.documents.index import Index
            except ModuleNotFoundError as error:
                raise DocumentError(
                    f"documents need the package {error.name}; {how_to_install('documents')}"
                ) from None
            self._folder = TemporaryDirectory(prefix="vlm-shelf-", ignore_cleanup_errors=True)
            self.index = Index.open(Path(self._folder.name) / "index.db", encoder)
        return self.index


def _put(index: Index, path: Path, name: str) -> str | None:
    """Put a file into an index; a sentence on what is left out of it, if something is. Raises DocumentError."""
    sources = {source.name: source.passages for source in index.sources()}
    if name not in sources and len(sources) == MOST_DOCUMENTS:
        raise DocumentError(f"{path} has no place: {MOST_DOCUMENTS} documents are the most here")
    passages, left_out = read_document(os.fspath(path))
    count = len(index) - sources.get(name, 0) + len(passages)
    if count > MOST_PASSAGES:
        raise DocumentError(
            f"{path} has {len(passages):,} passages, and all documents here may have {MOST_PASSAGES:,}; "
            "use vlm ask --docs, which has no limit"
        )
    index.put(name, [replace(passage, source=name) for passage in passages])
    return left_out


def change_shelf(shelf: Shelf, asked: Mapping[str, Any], encoder: Encoder) -> View:
    """Do what a page asked: `asked["remove"]` names a document, `asked["files"]` are uploads `{"path", "name"}`.

    Raises DocumentError for what was not uploaded, and where packages are missing.
    """
    uploads = Path(get_upload_folder()).resolve()
    files = [
        (Path(file["path"]).resolve(), str(file["name"]).encode("utf-8", "replace").decode())
        for file in asked.get("files", ())
    ]
    if not all(path.is_relative_to(uploads) for path, _ in files):
        raise DocumentError("only files that were uploaded can be read")
    if "remove" in asked:
        shelf.remove(asked["remove"])
    problems = shelf.add(files, encoder) if files else []
    return {"documents": shelf.listed(), "problems": problems}
