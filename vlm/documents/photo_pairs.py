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

APPLICATION = 0x766C6D70  # "vlmp", in the file's header


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
    def open(cls, path: str | Path, encoder: str) -> PhotoPairs:
        """Open a store, or make one. `encoder` names what makes the photos' vectors, such as a checkpoint.

        Raises DocumentError where the file is no such store, or has the vectors of another encoder.
        """
        path = os.fspath(path)
        with told_by_sqlite(path):
            database = apsw.Connection(path)
            database.enable_load_extension(True)
            database.load_extension(sqlite_vec.loadable_path())
            database.enable_load_extension(False)
            database.pragma("journal_mode", "wal")
            with database:
                if not database.execute("SELECT count(*) FROM sqlite_schema").get:
                    database.execute(
                        "CREATE TABLE pairs (photo TEXT, caption TEXT, vector BLOB, UNIQUE (photo, caption))"
                    )
                    database.execute("CREATE TABLE encoder (name TEXT)")
                    database.execute("INSERT INTO encoder VALUES (?)", (encoder,))
                    database.pragma("application_id", APPLICATION)
            if database.pragma("application_id") != APPLICATION:
                raise DocumentError(
                    f"{path} is a database, but holds no pairs of photos and captions"
                )
            own = database.execute("SELECT name FROM encoder").get
        if own != encoder:
            raise DocumentError(f"{path} has vectors of {own}, not of {encoder}; make it anew")
        return cls(path, database)

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
        data = self._unit(vector).tobytes()
        with told_by_sqlite(self.path), self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", (photo, caption.strip(), data)
            )

    def similar(self, vector: ArrayLike, k: int = 4) -> list[Similar]:
        """The captions of the k photos most like this one, best first. Raises DocumentError as `add` does."""
        if k < 1:
            raise DocumentError(f"k must be at least 1, not {k}")
        data = self._unit(vector).tobytes()
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

    def _unit(self, vector: ArrayLike) -> NDArray[np.float32]:
        values = np.asarray(vector, dtype=np.float32)
        length = np.linalg.norm(values)
        if values.ndim != 1 or not np.isfinite(length) or length == 0:
            raise DocumentError("a photo's vector must be one row of finite numbers, not all zero")
        with told_by_sqlite(self.path):
            bytes_there = self._database.execute("SELECT length(vector) FROM pairs LIMIT 1").get
        if bytes_there not in (None, values.nbytes):
            raise DocumentError(
                f"{self.path} has vectors of {bytes_there // 4} numbers, not of {len(values)}"
            )
        return values / length
