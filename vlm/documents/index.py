"""An index of passages in one file: what documents hold, found by words and by meaning.

SQLite keeps it, with FTS5 for the words of passages and sqlite-vec for vectors of their sentences: those of whole
passages blur what their sentences say of several things. A change is a transaction of all three, so a program that is
killed leaves the index as it was before or after, and one program may search while another adds.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import numpy as np
import sqlite_vec
from numpy.typing import NDArray

from vlm.documents.document_files import DocumentError, find_documents, read_document
from vlm.documents.passages import Passage, sentences
from vlm.documents.ranking import By, Found, check_search, ranked, telling_words
from vlm.documents.vectors import MINILM, Encoder
from vlm.images.files import LeftOut

APPLICATION = 0x766C6D69  # "vlmi", in the file's header
VERSION = 2
CHANGE = 256  # passages that one transaction brings, unless a single source has more
BY_WORDS = 100  # passages that words bring at least, whose nearness in meaning counts, too
BY_SIGNS = 75  # sentences that the signs of their vectors bring at least, which is quicker, before the nearest of these
OVERSAMPLE = 3  # times as many of these as the passages that are wanted
MOST_FOUND = 4096  # sqlite-vec gives no more
MAPPED = 1 << 30  # bytes of the file that are read where they lie
WAIT_MS = 10_000  # for another program's change

_SCHEMA = """
    CREATE TABLE sources (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        size INTEGER, modified_ns INTEGER, digest BLOB  -- of a file; NULL for passages that were put
    );
    CREATE TABLE passages (
        id INTEGER PRIMARY KEY,
        source INTEGER NOT NULL REFERENCES sources (id),
        page INTEGER, start INTEGER NOT NULL, stop INTEGER NOT NULL, text TEXT NOT NULL
    );
    CREATE INDEX passages_of_source ON passages (source);
    CREATE TABLE sentences (
        id INTEGER PRIMARY KEY,
        passage INTEGER NOT NULL REFERENCES passages (id),
        vector BLOB NOT NULL  -- of int8
    );
    CREATE INDEX sentences_of_passage ON sentences (passage);
    CREATE VIRTUAL TABLE words USING fts5(
        text, content='', contentless_delete=1, tokenize='porter unicode61 remove_diacritics 2'
    );
    CREATE TABLE encoder (name TEXT NOT NULL, width INTEGER NOT NULL);
"""

_LIKELY = """
    SELECT DISTINCT passage FROM sentences
    WHERE id IN (SELECT rowid FROM signs WHERE signs MATCH vec_quantize_binary(vec_int8(?)) AND k = ?)
"""
_CLOSENESS = """
    SELECT passage, 1 - min(vec_distance_cosine(vec_int8(vector), vec_int8(?))) FROM sentences
    WHERE passage IN (SELECT value FROM json_each(?)) GROUP BY passage
"""
_BY_WORDS = "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"


class SourceInfo(NamedTuple):
    """A source in the index, and how many passages it has."""

    name: str
    passages: int


@dataclass
class Added:
    """What `Index.add` did: sources by their fate, passages that came, and what could not be read."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    passages: int = 0
    problems: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


class _File(NamedTuple):
    """What tells whether a file has changed."""

    size: int
    modified_ns: int
    digest: bytes


class Index:
    """See `Index.open`. May be used by several threads, in turn."""

    def __init__(self, path: str, database: apsw.Connection, encoder: Encoder | None) -> None:
        self.path = path
        self._database = database
        self._given = encoder
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: str | Path, encoder: Encoder | None = None, create: bool = True) -> Index:
        """Open the index in a file, or with `create` make one where there is none.

        `encoder` makes the vectors, by default MiniLM, which is loaded when it is first needed. Raises DocumentError
        where the file is no index, or one of another version or encoder.
        """
        path = os.fspath(path)
        if not create and not os.path.exists(path):
            raise DocumentError(f"there is no index {path}; vlm index add makes one")
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        with told_by_sqlite(path):
            database = apsw.Connection(path, flags=flags)
        database.set_busy_timeout(WAIT_MS)
        database.enable_load_extension(True)
        database.load_extension(sqlite_vec.loadable_path())
        database.enable_load_extension(False)
        index = cls(path, database, encoder)
        try:
            index._check()
        except BaseException:
            database.close()
            raise
        return index

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(
        self,
        paths: Sequence[str | os.PathLike[str]],
        on_file: Callable[[int, int, str], None] | None = None,
    ) -> Added:
        """Bring the index up to date with files, folders and globs; sources are named by their absolute paths.

        Files whose size and date are as they were are skipped, changed ones replaced, and those below a given folder
        that are gone are dropped. What cannot be read is a sentence among the problems, and its old passages stay only
        if it may not be opened. A run that was stopped goes on where it was. `on_file` is told how many files are done,
        of how many, and which comes.
        """
        if isinstance(paths, str | os.PathLike):
            paths = [paths]
        places = [os.path.abspath(path) for path in paths]
        listing = find_documents(places)
        report = Added(problems=listing.problems, left_out=listing.left_out)
        self._drop_missing(places, report)
        waiting: list[tuple[str, _File, list[Passage]]] = []
        for done, name in enumerate(listing.files):
            if on_file is not None:
                on_file(done, len(listing.files), name)
            try:
                name.encode()
                file = self._look(name, report)
                if file is None:
                    continue
                passages, left_out = read_document(name)
            except UnicodeEncodeError:
                shown = name.encode("utf-8", "replace").decode()
                report.problems.append(f"{shown}: its name is not UTF-8; rename it")
                continue
            except DocumentError as error:
                report.problems.append(str(error))
                if self.delete(name):
                    report.dropped.append(name)
                continue
            except OSError as error:
                report.problems.append(f"{name} cannot be read: {error.strerror or error}")
                continue
            if left_out:
                report.problems.append(left_out)
            waiting.append((name, file, passages))
            if sum(len(own) for _, _, own in waiting) >= CHANGE:
                self._bring(waiting, report)
                waiting = []
        self._bring(waiting, report)
        return report

    def put(self, source: str, passages: Sequence[Passage]) -> None:
        """Have these passages, and no others, under the name of a source that is no file, such as "captions"."""
        with self._change() as database:
            self._replace(database, source, None, passages)

    def delete(self, source: str) -> bool:
        """Forget a source, by its name; whether it was there."""
        with self._change() as database:
            found = database.execute("SELECT id FROM sources WHERE name = ?", (source,)).fetchone()
            if found is not None:
                self._forget(database, *found)
            return found is not None

    def sources(self) -> list[SourceInfo]:
        """All sources by name, with their numbers of passages."""
        query = """SELECT name, count(passages.id) FROM sources LEFT JOIN passages ON source = sources.id
                   GROUP BY sources.id ORDER BY name"""
        with self._lock, told_by_sqlite(self.path):
            return [SourceInfo(*row) for row in self._database.execute(query)]

    def passages(self, source: str) -> list[Passage]:
        """A source's passages, in order."""
        query = "SELECT passages.id FROM passages JOIN sources ON source = sources.id WHERE name = ? ORDER BY 1"
        with self._lock, told_by_sqlite(self.path):
            return self._fetch([id for (id,) in self._database.execute(query, (source,))])

    def __len__(self) -> int:
        """The number of passages."""
        with self._lock, told_by_sqlite(self.path):
            return self._database.execute("SELECT count(*) FROM passages").get

    def search(self, text: str, k: int = 8, by: By = "both") -> list[Found]:
        """The k passages that answer best, best first; fewer where the index has fewer.

        By words, with Okapi's BM25, by meaning, with the cosine to the nearest sentence of a passage, or by both, see
        `vlm.documents.ranking.ranked`. Raises DocumentError for an empty text, and for k outside 1 to MOST_FOUND.
        """
        check_search(text, k, MOST_FOUND)
        vector = b"" if by == "words" else _small(self._encoder.encode([text])[0])
        terms = [] if by == "meaning" else telling_words(text)
        closeness: dict[int, float] = {}
        relevance: dict[int, float] = {}
        with self._lock, told_by_sqlite(self.path), self._database:  # one view of the index
            if terms:
                phrase = " OR ".join(f'"{term}"' for term in terms)
                relevance = self._numbers(_BY_WORDS, (phrase, max(k, BY_WORDS)))
            if vector:
                nearest = (vector, min(max(OVERSAMPLE * k, BY_SIGNS), MOST_FOUND))
                likely = {id for (id,) in self._database.execute(_LIKELY, nearest)} | set(relevance)
                values = (vector, json.dumps(sorted(likely)))
                closeness = self._numbers(_CLOSENESS, values)
            best = ranked(closeness, relevance, len(terms))[:k]
            found = self._fetch([id for id, _ in best])
        return [Found(passage, score) for passage, (_, score) in zip(found, best)]

    @cached_property
    def _encoder(self) -> Encoder:
        if self._given is not None:
            return self._given
        from vlm.documents.sentence_encoder import SentenceEncoder  # not before: it loads torch

        return SentenceEncoder()

    def _check(self) -> None:
        """Make the tables of a new file, or see whether those of an old one are what is expected."""
        space = MINILM if self._given is None else self._given.space
        database = self._database
        with told_by_sqlite(self.path):
            database.pragma("journal_mode", "wal")
            database.pragma("synchronous", "normal")
            database.pragma("mmap_size", MAPPED)
            new = not database.execute("SELECT count(*) FROM sqlite_schema").get
        if new:
            self._make(*space)
        with told_by_sqlite(self.path):
            if database.pragma("application_id") != APPLICATION:
                raise DocumentError(f"{self.path} is a database of another program, and no index")
            if (version := database.pragma("user_version")) != VERSION:
                raise DocumentError(
                    f"{self.path} has version {version}, and this program reads {VERSION}; make it anew"
                )
            own = database.execute("SELECT name, width FROM encoder").fetchall()[0]
        if own != space:
            raise DocumentError(
                f"{self.path} has vectors of {own[0]}, not of {space.encoder}; make it anew"
            )

    def _make(self, encoder: str, width: int) -> None:
        with self._change() as database:
            if database.execute("SELECT count(*) FROM sqlite_schema").get:
                return  # another program was first
            database.execute(_SCHEMA)
            database.execute(f"CREATE VIRTUAL TABLE signs USING vec0(signs bit[{width}])")
            database.execute("INSERT INTO encoder VALUES (?, ?)", (encoder, width))
            database.pragma("application_id", APPLICATION)
            database.pragma("user_version", VERSION)

    def _look(self, name: str, report: Added) -> _File | None:
        """A file as it is now, or None if it is what the index has."""
        status = os.stat(name)
        query = "SELECT size, modified_ns, digest FROM sources WHERE name = ?"
        with self._lock, told_by_sqlite(self.path):
            known = self._database.execute(query, (name,)).fetchone()
        if known is not None and known[:2] == (status.st_size, status.st_mtime_ns):
            report.unchanged.append(name)
            return None
        with open(name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        now = _File(status.st_size, status.st_mtime_ns, digest)
        if known is None or known[2] != digest:
            return now
        with self._change() as database:  # touched alone
            database.execute(
                "UPDATE sources SET modified_ns = ? WHERE name = ?", (now.modified_ns, name)
            )
        report.unchanged.append(name)
        return None

    def _drop_missing(self, places: Sequence[str], report: Added) -> None:
        """Forget files that are gone: those given by name, and those below a folder that is there."""
        query = "SELECT name FROM sources WHERE digest NOT NULL"
        with self._lock, told_by_sqlite(self.path):
            names = [name for (name,) in self._database.execute(query)]
        folders = tuple(os.path.join(place, "") for place in places if os.path.isdir(place))
        for name in names:
            if (name in places or name.startswith(folders)) and not os.path.lexists(name):
                self.delete(name)
                report.dropped.append(name)
        gone = {f"{name}: no such file" for name in report.dropped}
        report.problems[:] = [problem for problem in report.problems if problem not in gone]

    def _bring(self, files: Sequence[tuple[str, _File, list[Passage]]], report: Added) -> None:
        """Put files into the index, all of them or none."""
        if not files:
            return
        with self._change() as database:
            for name, file, passages in files:
                known = self._replace(database, name, file, passages)
                (report.changed if known else report.new).append(name)
                report.passages += len(passages)

    def _replace(
        self,
        database: apsw.Connection,
        name: str,
        file: _File | None,
        passages: Sequence[Passage],
    ) -> bool:
        """A source anew; whether it was there."""
        known = database.execute("SELECT id FROM sources WHERE name = ?", (name,)).fetchone()
        if known is not None:
            self._forget(database, *known)
        facts = file or (None, None, None)
        database.execute(
            "INSERT INTO sources (name, size, modified_ns, digest) VALUES (?, ?, ?, ?)",
            (name, *facts),
        )
        source = database.last_insert_rowid()
        for start in range(0, len(passages), CHANGE):
            some = passages[start : start + CHANGE]
            cut = [sentences(passage.text) for passage in some]
            vectors = iter(self._encoder.encode([sentence for own in cut for sentence in own]))
            for passage, own in zip(some, cut):
                database.execute(
                    "INSERT INTO passages (source, page, start, stop, text) VALUES (?, ?, ?, ?, ?)",
                    (source, passage.page, passage.start, passage.end, passage.text),
                )
                row = database.last_insert_rowid()
                database.execute(
                    "INSERT INTO words (rowid, text) VALUES (?, ?)", (row, passage.text)
                )
                for vector in islice(vectors, len(own)):
                    small = _small(vector)
                    database.execute(
                        "INSERT INTO sentences (passage, vector) VALUES (?, ?)", (row, small)
                    )
                    database.execute(
                        "INSERT INTO signs (rowid, signs) VALUES (?, vec_quantize_binary(vec_int8(?)))",
                        (database.last_insert_rowid(), small),
                    )
        return known is not None

    def _forget(self, database: apsw.Connection, source: int) -> None:
        rows = "(SELECT id FROM passages WHERE source = ?)"
        database.execute(f"DELETE FROM words WHERE rowid IN {rows}", (source,))
        own = f"(SELECT id FROM sentences WHERE passage IN {rows})"
        database.execute(f"DELETE FROM signs WHERE rowid IN {own}", (source,))
        database.execute(f"DELETE FROM sentences WHERE passage IN {rows}", (source,))
        database.execute("DELETE FROM passages WHERE source = ?", (source,))
        database.execute("DELETE FROM sources WHERE id = ?", (source,))

    def _numbers(self, query: str, values: tuple[Any, ...]) -> dict[int, float]:
        """What a query has for passages, by their ids."""
        rows: list[Any] = self._database.execute(query, values).fetchall()
        return dict(rows)

    def _fetch(self, ids: Sequence[int]) -> list[Passage]:
        query = """SELECT text, name, page, start, stop FROM passages JOIN sources ON source = sources.id
                   WHERE passages.id = ?"""
        return [Passage(*row) for id in ids for row in self._database.execute(query, (id,))]

    @contextmanager
    def _change(self) -> Iterator[apsw.Connection]:
        """A transaction that changes the index: all of it, or nothing."""
        with self._lock, told_by_sqlite(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


def _small(vector: NDArray[np.float32]) -> bytes:
    """A vector `(D,)` as int8: of its length nothing is left, and cosines stay within a few thousandths."""
    return np.round(vector / np.abs(vector).max() * 127).astype(np.int8).tobytes()


@contextmanager
def told_by_sqlite(path: str) -> Iterator[None]:
    """What SQLite cannot do, as a sentence."""
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError):
        raise DocumentError(
            f"{path} is damaged or no index; move it away and add the documents anew"
        ) from None
    except (apsw.BusyError, apsw.LockedError):
        raise DocumentError(
            f"{path} is being changed by another program; try again when it is done"
        ) from None
    except apsw.ReadOnlyError:
        raise DocumentError(f"{path} may not be written to") from None
    except apsw.FullError:
        raise DocumentError(f"{path} cannot grow: the disk is full") from None
    except (apsw.CantOpenError, apsw.IOError) as error:
        raise DocumentError(f"{path} cannot be opened as an index ({error})") from None
