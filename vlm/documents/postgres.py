"""Passages in a PostgreSQL database with pgvector, for those who have one: searched by words and by meaning.

PostgreSQL's own full-text search finds by words, and ranks by how often and how close they stand together; it has no
BM25. pgvector finds by the cosine of vectors, over an HNSW graph where the table has one, which may miss some.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from vlm.documents.document_files import DocumentError
from vlm.documents.passages import Passage
from vlm.documents.ranking import CANDIDATES, By, Found, check_search, fused, telling_words
from vlm.documents.sentence_encoder import SharedEncoder
from vlm.documents.vectors import Encoder

TABLE = "passages"
CHANGE = 256  # passages whose vectors are made together
MOST_FOUND = 1000  # pgvector's graph gives no more
WAIT_S = 10  # for a server that does not answer
COMMENT = "vectors of "  # of a table, before the name of its encoder

_MAKE = SQL("""
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE TABLE {table} (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        text text NOT NULL, source text NOT NULL, page integer, start integer NOT NULL, stop integer NOT NULL,
        vector vector({width}) NOT NULL
    );
    CREATE INDEX ON {table} (source);
    CREATE INDEX ON {table} USING gin (to_tsvector('english', text));
    CREATE INDEX ON {table} USING hnsw (vector vector_cosine_ops);
    COMMENT ON TABLE {table} IS {comment};
""")
_BY_WORDS = SQL("""
    SELECT id FROM {table} WHERE to_tsvector('english', text) @@ to_tsquery('english', %(words)s)
    ORDER BY ts_rank_cd(to_tsvector('english', text), to_tsquery('english', %(words)s), 1) DESC, id LIMIT %(count)s
""")
_BY_MEANING = SQL("SELECT id FROM {table} ORDER BY vector <=> %(vector)s::vector LIMIT %(count)s")


class PostgresIndex:
    """See `PostgresIndex.open`. May be used by several threads, in turn."""

    def __init__(self, database: psycopg.Connection[Any], table: str, encoder: Encoder) -> None:
        self._database = database
        self._table = Identifier(*table.split("."))
        self._encoder = encoder
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        address: str,
        table: str = TABLE,
        encoder: Encoder | None = None,
        create: bool = True,
    ) -> PostgresIndex:
        """Open a table of a database, or with `create` make one where there is none.

        `address` is libpq's, such as "postgresql://user@host/database". A view that has the columns `id`, `text`,
        `source`, `page`, `start`, `stop` and `vector` is searched as a table is. `encoder` made the vectors, by default
        MiniLM. Raises DocumentError where the database cannot be reached, has no pgvector or no such table, or has the
        vectors of another encoder.
        """
        encoder = encoder or SharedEncoder()
        with _told():
            database = psycopg.connect(address, autocommit=True, connect_timeout=WAIT_S)
        index = cls(database, table, encoder)
        try:
            index._check(table, create)
        except BaseException:
            database.close()
            raise
        return index

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def __enter__(self) -> PostgresIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, source: str, passages: Sequence[Passage]) -> None:
        """Have these passages, and no others, under the name of a source; all of them, or none."""
        insert = self._of(
            SQL("""INSERT INTO {table} (text, source, page, start, stop, vector)
                   VALUES (%s, %s, %s, %s, %s, %s::vector)""")
        )
        with self._change() as cursor:
            cursor.execute(self._of(SQL("DELETE FROM {table} WHERE source = %s")), (source,))
            for start in range(0, len(passages), CHANGE):
                some = passages[start : start + CHANGE]
                vectors = self._encoder.encode([passage.text for passage in some])
                rows = [
                    (p.text, source, p.page, p.start, p.end, _as_text(vector))
                    for p, vector in zip(some, vectors)
                ]
                cursor.executemany(insert, rows)

    def delete(self, source: str) -> bool:
        """Forget a source, by its name; whether it was there."""
        with self._change() as cursor:
            cursor.execute(self._of(SQL("DELETE FROM {table} WHERE source = %s")), (source,))
            return cursor.rowcount > 0

    def __len__(self) -> int:
        """The number of passages."""
        with self._change() as cursor:
            return cursor.execute(self._of(SQL("SELECT count(*) FROM {table}"))).fetchall()[0][0]

    def search(self, text: str, k: int = 8, by: By = "both") -> list[Found]:
        """The k passages that answer best, best first; as `Index.search`. Raises DocumentError as that does."""
        check_search(text, k, MOST_FOUND)
        count = max(k, CANDIDATES)
        rankings: list[list[int]] = []
        vector = None if by == "words" else _as_text(self._encoder.encode([text])[0])
        with self._change() as cursor:
            if vector is not None:
                # The graph gives no more than this many, 40 by default.
                walked = str(min(2 * count, MOST_FOUND))
                cursor.execute("SELECT set_config('hnsw.ef_search', %s, true)", (walked,))
                rankings.append(self._ids(cursor, _BY_MEANING, vector=vector, count=count))
            if by != "meaning":
                words = " | ".join(f"'{word}'" for word in telling_words(text))
                rankings.append(self._ids(cursor, _BY_WORDS, words=words, count=count))
            best = fused(rankings)[:k]
            query = SQL(
                "SELECT id, text, source, page, start, stop FROM {table} WHERE id = ANY(%s)"
            )
            rows = cursor.execute(self._of(query), ([id for id, _ in best],)).fetchall()
        passages = {id: Passage(*rest) for id, *rest in rows}
        # Another program may have removed one in between.
        return [Found(passages[id], score) for id, score in best if id in passages]

    def _ids(self, cursor: psycopg.Cursor[Any], query: SQL, **values: Any) -> list[int]:
        return [id for (id,) in cursor.execute(self._of(query), values)]

    def _check(self, table: str, create: bool) -> None:
        """Make a table where there is none, or see whether its vectors are those of the encoder."""
        encoder, width = self._encoder.space
        with self._change() as cursor:
            there = "SELECT to_regclass(%s), obj_description(to_regclass(%s), 'pg_class')"
            name = self._table.as_string(self._database)
            found, comment = cursor.execute(there, (name, name)).fetchall()[0]
            if found is None and not create:
                raise DocumentError(f"the database has no table {table}")
            if found is None:
                told = Literal(COMMENT + encoder)
                cursor.execute(_MAKE.format(table=self._table, width=Literal(width), comment=told))
                return
            columns = SQL("SELECT id, text, source, page, start, stop, vector FROM {table} LIMIT 1")
            row = cursor.execute(self._of(columns)).fetchone()
        if comment and comment.startswith(COMMENT) and comment != COMMENT + encoder:
            raise DocumentError(f"the table {table} has {comment}, not of {encoder}")
        own = 0 if row is None else str(row[-1]).count(",") + 1
        if own not in (0, width):
            raise DocumentError(
                f"the table {table} has vectors of {own} numbers, and {encoder} makes {width}"
            )

    def _of(self, query: SQL) -> Any:
        return query.format(table=self._table)

    @contextmanager
    def _change(self) -> Iterator[psycopg.Cursor[Any]]:
        """A transaction: all of it, or nothing."""
        with self._lock, _told(), self._database.transaction(), self._database.cursor() as cursor:
            yield cursor


def _as_text(vector: Any) -> str:
    """A vector as pgvector reads it."""
    return f"[{','.join(map(str, vector.tolist()))}]"


@contextmanager
def _told() -> Iterator[None]:
    """What PostgreSQL cannot do, as a sentence."""
    try:
        yield
    except psycopg.errors.FeatureNotSupported as error:
        raise DocumentError(
            f"the database has no pgvector ({_reason(error)}); see https://github.com/pgvector/pgvector"
        ) from None
    except psycopg.OperationalError as error:
        raise DocumentError(f"the database cannot be used ({_reason(error)})") from None
    except psycopg.Error as error:
        raise DocumentError(f"the database refused it ({_reason(error)})") from None


def _reason(error: psycopg.Error) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
