"""Pairs of a photo and its caption: what was said of photos like this one, to be read beside it.

After SmallCap (Ramos et al. 2023): the captions of similar photos are passages, so names of people and places that a
user knows come into captions by adding pairs, with no training.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import numpy as np
import sqlite_vec
from numpy.typing import ArrayLike, NDArray

from vlm.documents.document_files import DocumentError
from vlm.documents.index import told_by_sqlite
from vlm.documents.passages import Passage

APPLICATION = 0x766C6D71  # "vlmq", in the file's header
SAME = 0.999  # cosine; an encoder in bf16 and in float32 is the same


class Similar(NamedTuple):
    """A stored caption as a passage, whose source is its photo, and the cosine of the photos' vectors."""

    passage: Passage
    score: float


class PhotoPairs:
    """A store of pairs in one file of SQLite; see `open`. For one thread."""

    def __init__(self, path: str, database: apsw.Connection) -> None:
        self.path = path
        self._database = database

    @classmethod
    def open(
        cls, path: str | Path, blank: ArrayLike | None = None, create: bool = False
    ) -> PhotoPairs:
        """Open a store, or with `create` make one where there is none.

        `blank` `(D,)` is what the encoder of the photos' vectors makes of no photo, by which it is known again: in
        another precision it is nearly the same. Without it pairs can be listed and forgotten. Raises DocumentError
        where there is no such file, it is no such store, or has the vectors of another encoder.
        """
        path = os.fspath(path)
        if not create and not os.path.exists(path):
            raise DocumentError(f"{path}: no such file; vlm pairs add makes one")
        with told_by_sqlite(path):
            database = apsw.Connection(path)
        store = cls(path, database)
        try:
            store._check(None if blank is None else _unit(blank))
        except BaseException:
            database.close()
            raise
        return store

    def _check(self, blank: NDArray[np.float32] | None) -> None:
        """See that this is a store of an encoder, which an empty file becomes."""
        database = self._database
        with told_by_sqlite(self.path):
            database.enable_load_extension(True)
            database.load_extension(sqlite_vec.loadable_path())
            database.enable_load_extension(False)
            if blank is not None and not database.execute("SELECT count(*) FROM sqlite_schema").get:
                database.pragma("journal_mode", "wal")
                with database:
                    database.execute(
                        "CREATE TABLE pairs (photo TEXT, caption TEXT, vector BLOB, UNIQUE (photo, caption))"
                    )
                    database.execute("CREATE TABLE encoder (blank BLOB)")
                    database.execute("INSERT INTO encoder VALUES (?)", (blank.tobytes(),))
                    database.pragma("application_id", APPLICATION)
            if database.pragma("application_id") != APPLICATION:
                raise DocumentError(
                    f"{self.path} is a database, but holds no pairs of photos and captions"
                )
            own = np.frombuffer(database.execute("SELECT blank FROM encoder").get, np.float32)
        if blank is not None and (own.shape != blank.shape or own @ blank < SAME):
            raise DocumentError(
                f"{self.path} has vectors of another model; make it anew with this one, or name that one as --model"
            )

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> PhotoPairs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        with told_by_sqlite(self.path):
            return self._database.execute("SELECT count(*) FROM pairs").get

    def add(self, photo: str, vector: ArrayLike, caption: str) -> None:
        """Keep a pair; the same photo and caption again replace their vector.

        `vector` `(D,)` is what the encoder makes of the photo, such as the mean of its patches. Raises DocumentError
        for an empty caption, and for a vector of another width than the others.
        """
        if not caption.strip():
            raise DocumentError(f"the caption of {photo} is empty; give some words")
        data = self._fitting(vector).tobytes()
        with told_by_sqlite(self.path), self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", (photo, caption.strip(), data)
            )

    def similar(self, vector: ArrayLike, k: int = 4) -> list[Similar]:
        """The captions of the k photos most like this one, best first. Raises DocumentError as `add` does."""
        if k < 1:
            raise DocumentError(f"k must be at least 1, not {k}")
        data = self._fitting(vector).tobytes()
        query = """SELECT photo, caption, vec_distance_cosine(vector, ?) AS distance FROM pairs
                   ORDER BY distance, photo LIMIT ?"""
        with told_by_sqlite(self.path):
            rows: list[Any] = self._database.execute(query, (data, k)).fetchall()
        return [
            Similar(Passage(caption, photo, None, 0, len(caption)), 1 - distance)
            for photo, caption, distance in rows
        ]

    def delete(self, photo: str) -> int:
        """Forget a photo's pairs; how many there were."""
        with told_by_sqlite(self.path):
            self._database.execute("DELETE FROM pairs WHERE photo = ?", (photo,))
            return self._database.changes()

    def photos(self) -> list[tuple[str, str]]:
        """Each photo with its caption, by name."""
        with told_by_sqlite(self.path):
            rows: list[Any] = self._database.execute(
                "SELECT photo, caption FROM pairs ORDER BY photo, caption"
            ).fetchall()
        return rows

    def _fitting(self, vector: ArrayLike) -> NDArray[np.float32]:
        unit = _unit(vector)
        with told_by_sqlite(self.path):
            bytes_there = self._database.execute("SELECT length(vector) FROM pairs LIMIT 1").get
        if bytes_there not in (None, unit.nbytes):
            raise DocumentError(
                f"{self.path} has vectors of {bytes_there // 4} numbers, not of {len(unit)}"
            )
        return unit


def _unit(vector: ArrayLike) -> NDArray[np.float32]:
    """A vector of length 1. Raises DocumentError for one that has no direction."""
    values = np.asarray(vector, dtype=np.float32)
    length = np.linalg.norm(values)
    if values.ndim != 1 or not np.isfinite(length) or length == 0:
        raise DocumentError("a photo's vector must be one row of finite numbers, not all zero")
    return values / length
