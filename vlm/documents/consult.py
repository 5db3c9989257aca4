"""Documents that are consulted for one question or a few: an index that is there, or one made for the occasion."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlm.documents.document_files import DocumentError
from vlm.documents.index import Added, Index
from vlm.documents.ranking import Searchable
from vlm.errors import how_to_install

DATABASES = ("postgresql://", "postgres://")
_SQLITE = b"SQLite format 3\0"


@contextmanager
def consulted(paths: Sequence[str | Path]) -> Iterator[tuple[Searchable, Added]]:
    """The index or database that is the only path, or an index of the documents that paths and globs stand for.

    It is open for as long. Also what came of reading them. Raises DocumentError where none of them can be read.
    """
    if len(paths) == 1 and str(paths[0]).startswith(DATABASES):
        try:
            from vlm.documents.postgres import PostgresIndex
        except ImportError:
            raise DocumentError(
                f"a database needs the package psycopg; {how_to_install('postgres')}"
            ) from None
        with PostgresIndex.open(str(paths[0]), create=False) as database:
            yield database, Added()
        return
    if len(paths) == 1 and is_index(paths[0]):
        with Index.open(paths[0], create=False) as index:
            yield index, Added()
        return
    with tempfile.TemporaryDirectory() as folder, Index.open(f"{folder}/index.db") as index:
        added = index.add(paths)
        if not len(index):
            raise DocumentError("; ".join(added.problems) or "there is no document to read")
        yield index, added


def is_index(path: str | Path) -> bool:
    """Whether a path is a file of SQLite, as an index is."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
