"""The index of passages: what it finds, what it keeps, and that nothing breaks it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hashed import HashedWords

from vlm.documents.document_files import DocumentError
from vlm.documents.index import Index
from vlm.documents.passages import Passage
from vlm.documents.ranking import WEIGHT, fused, ranked, telling_words
from vlm.documents.sentence_encoder import PACKAGE, SentenceEncoder

THINGS = ("mill", "ship", "bridge", "tower", "well", "clock", "organ", "boat")


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number, thing in enumerate(THINGS):
        text = f"The {thing} was made by Anna{number} and it is {number} feet high. " * 12
        (folder / f"{thing}.txt").write_text(text)
    return folder


@pytest.fixture
def index(tmp_path):
    with Index.open(tmp_path / "index.db", HashedWords()) as index:
        yield index


def content(index: Index) -> dict[str, list[Passage]]:
    return {name: index.passages(name) for name, _ in index.sources()}


def parts(index: Index) -> set[int]:
    """By how many rows the tables that belong together differ."""
    tables = ("passages", "words", "sentences", "signs")
    passages, words, sentences, signs = (
        index._database.execute(f"SELECT count(*) FROM {table}").get for table in tables
    )
    assert sentences >= passages
    return {passages - words, sentences - signs}


def test_it_finds_the_passage_and_says_where_it_stands(index, notes):
    report = index.add([notes])
    assert len(report.new) == len(THINGS)
    assert report.passages == len(index) == sum(count for _, count in index.sources())
    found = index.search("how high is the bridge?", 2)
    assert [Path(f.passage.source).name for f in found] == ["bridge.txt", "bridge.txt"]
    assert found[0].score >= found[1].score > 0
    passage = found[0].passage
    assert Path(passage.source).read_text()[passage.start : passage.end] == passage.text
    assert len(index.search("bridge", 100)) == len(index)


@pytest.mark.parametrize(
    "text", ['"', "a OR b", "NEAR(", "text:mill *", "-mill ^x", "'; DROP", "the", "?!", "\0"]
)
def test_signs_of_the_query_language_are_plain_text(index, notes, text):
    index.add([notes])
    assert index.search(text, 3)


@pytest.mark.parametrize(
    ("text", "k"), [("", 3), (" \n", 3), ("mill", 0), ("mill", -1), ("mill", 5000)]
)
def test_a_search_for_nothing_is_told(index, text, k):
    with pytest.raises(DocumentError):
        index.search(text, k)


def test_an_empty_index_finds_nothing(index):
    assert index.search("mill") == []
    assert index.sources() == []


def test_only_what_changed_is_read_again(index, notes):
    index.add([notes])
    before = content(index)
    assert len(index.add([notes]).unchanged) == len(THINGS)
    os.utime(notes / "mill.txt", (1, 1))  # touched alone
    assert not index.add([notes]).changed
    (notes / "ship.txt").write_text("The ship sank.")
    (notes / "well.txt").unlink()
    (notes / "new.md").write_text("# Gull\n\nA bird.")
    report = index.add([notes])
    names = [
        [Path(name).name for name in group]
        for group in (report.changed, report.dropped, report.new)
    ]
    assert names == [["ship.txt"], ["well.txt"], ["new.md"]]
    after = content(index)
    assert [p.text for p in after[str(notes / "ship.txt")]] == ["The ship sank."]
    assert str(notes / "well.txt") not in after
    kept = str(notes / "mill.txt")
    assert after[kept] == before[kept]
    assert parts(index) == {0}


def test_a_file_that_is_gone_is_dropped_by_name_too_but_not_with_its_disk(index, notes):
    index.add([notes])
    (notes / "mill.txt").unlink()
    report = index.add([notes / "mill.txt"])
    assert (len(report.dropped), report.problems) == (1, [])
    notes.rename(notes.parent / "away")
    report = index.add([notes])
    assert report.problems == [f"{notes}: no such file"]
    assert len(index.sources()) == len(THINGS) - 1


def test_bad_files_are_told_and_stop_nothing(index, notes):
    (notes / "bad.pdf").write_text("no pdf")
    (notes / "empty.txt").touch()
    (notes / os.fsdecode(b"b\xff.txt")).write_text("hello")
    (notes / "photo.jpg").touch()
    report = index.add([notes, notes / "nowhere.txt"])
    assert len(report.new) == len(THINGS)
    assert len(report.problems) == 4
    assert report.left_out.total() == 1


def test_a_file_that_became_unreadable_leaves_nothing_behind(index, notes):
    index.add([notes])
    (notes / "mill.txt").write_bytes(b"\0\0")
    report = index.add([notes])
    assert len(report.problems) == len(report.dropped) == 1
    assert str(notes / "mill.txt") not in content(index)


def test_sources_are_deleted_and_put(index, notes):
    index.add([notes])
    assert index.delete(str(notes / "mill.txt"))
    assert not index.delete(str(notes / "mill.txt"))
    assert all("mill.txt" not in f.passage.source for f in index.search("mill", 50))
    own = [Passage("Grandma Ida at the sea", "captions", None, 0, 22)]
    index.put("captions", own * 2)
    index.put("captions", own)
    assert index.passages("captions") == own
    assert index.search("Ida", 1)[0].passage == own[0]
    assert not index.add([notes]).dropped  # it is no file that could be gone
    assert parts(index) == {0}


def test_a_change_is_whole_or_not_at_all(index, notes, monkeypatch):
    index.add([notes])
    before = content(index)
    (notes / "mill.txt").write_text("Another text.")

    def broken(texts):
        raise KeyboardInterrupt

    monkeypatch.setattr(index._encoder, "encode", broken)
    with pytest.raises(KeyboardInterrupt):
        index.add([notes])
    monkeypatch.undo()
    assert content(index) == before
    assert len(index.add([notes]).changed) == 1


KILLED = """
import sys
from hashed import HashedWords
from vlm.documents import index
index.CHANGE = 8  # many transactions
with index.Index.open(sys.argv[1], HashedWords()) as opened:
    print("ready", flush=True)
    opened.add([sys.argv[2]], lambda done, total, name: print(done, flush=True))
"""


def test_kill_9_loses_no_more_than_the_last_change(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(200):
        (notes / f"{number}.txt").write_text(f"Note {number} speaks of thing {number}. " * 20)
    path = tmp_path / "index.db"
    held = 0
    for stop in (40, 120):
        command = [sys.executable, "-c", KILLED, str(path), str(notes)]
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == str(stop):
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Index.open(path, HashedWords()) as index:
            assert index._database.execute("PRAGMA integrity_check").get == "ok"
            assert parts(index) == {0}
            now = len(index.sources())
            assert held <= now < 200
            held = now
    assert held >= 80
    with (
        Index.open(path, HashedWords()) as index,
        Index.open(tmp_path / "whole.db", HashedWords()) as whole,
    ):
        report = index.add([notes])
        assert len(report.unchanged) == held  # it goes on where it was
        whole.add([notes])
        assert content(index) == content(whole)


def test_it_is_searched_while_another_program_adds(index, notes, tmp_path, monkeypatch):
    index.add([notes])
    with Index.open(tmp_path / "index.db", HashedWords()) as other, index._change():
        assert other.search("mill", 1)
        other._database.set_busy_timeout(10)
        with pytest.raises(DocumentError, match="another program"):
            other.delete("x")


def not_a_database(path: Path) -> None:
    path.write_text("hello " * 1000)


def of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (a)")


def of_another_encoder(path: Path) -> None:
    Index.open(path).close()


def of_another_version(path: Path) -> None:
    Index.open(path, HashedWords()).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    "make", [Path.mkdir, not_a_database, of_another_program, of_another_encoder, of_another_version]
)
def test_what_is_no_index_is_told(tmp_path, make):
    path = tmp_path / "index.db"
    make(path)
    with pytest.raises(DocumentError, match=r"index\.db"):
        Index.open(path, HashedWords())


def test_no_index_where_none_is_made(tmp_path):
    with pytest.raises(DocumentError, match="no index"):
        Index.open(tmp_path / "index.db", create=False)
    with pytest.raises(DocumentError):
        Index.open(tmp_path / "nowhere" / "index.db", HashedWords())
    assert list(tmp_path.iterdir()) == []


def test_a_passage_is_found_by_one_of_its_sentences(index):
    others = "The church has a tower. The road is narrow. Snow falls on it in winter."
    texts = {
        "a": f"{others} The mill cost nine crowns.",
        "b": "The mill is old. A gull cost nothing.",
    }
    for name, text in texts.items():
        index.put(name, [Passage(text, name, None, 0, len(text))])
    first, second = index.search("the mill cost nine crowns", 2, "meaning")
    assert first.passage.source == "a"
    assert first.score == pytest.approx(1, abs=0.01) != pytest.approx(second.score, abs=0.1)


def test_a_text_without_words_is_a_sentence(index):
    index.put("a", [Passage("--- ***", "a", None, 0, 7)])
    assert [f.passage.text for f in index.search("gull", 1)] == ["--- ***"]


def test_ranks_are_fused():
    assert [item for item, _ in fused([[1, 2, 3], [3, 1]])] == [1, 3, 2]
    assert fused([[5]]) == [(5, 1 / 11)]
    assert fused([[], []]) == []


def test_closeness_and_relevance_are_added():
    assert [item for item, _ in ranked({1: 0.9, 2: 0.5, 3: 0.4}, {3: 20.0, 4: 5.0}, 2)] == [
        3,
        1,
        2,
        4,
    ]
    assert ranked({1: 0.5}, {1: 6.0}, 3) == [(1, pytest.approx(0.5 + 2 * WEIGHT))]
    assert ranked({2: 0.5, 1: 0.5}, {}, 0) == [(1, 0.5), (2, 0.5)]
    assert ranked({}, {}, 1) == []


def test_telling_words():
    assert telling_words("Who built the MILL, the mill?") == ["built", "mill"]
    assert telling_words("What is it?") == ["what", "is", "it"]
    assert telling_words("?!") == []


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def test_vectors_are_those_of_transformers(encoder):
    """The real weights, against the library that they were published for."""
    import torch
    from transformers import AutoTokenizer, BertModel

    folder = Path(__import__(PACKAGE).__file__).parent / "model"
    model, pieces = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = ["Two dogs play.", "Who built the mill at Örsk, and when?" * 9, "the " * 400, ""]
    ours = torch.from_numpy(encoder.encode(texts))
    for text, vector in zip(texts, ours):
        inputs = pieces(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state[0].mean(dim=0)
        cosine = torch.cosine_similarity(states, vector, dim=0)
        assert cosine > 0.998
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(4))


def test_meaning_finds_what_words_do_not(tmp_path, encoder):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "dogs.txt").write_text("Two puppies were running along the shore.")
    (folder / "money.txt").write_text("The bank raised its rates again.")
    (folder / "food.txt").write_text("Bread is baked at night.")
    with Index.open(tmp_path / "index.db", encoder) as index:
        index.add([folder])
        for question, name in (("dog at the beach", "dogs"), ("interest on loans", "money")):
            assert Path(index.search(question, 1)[0].passage.source).stem == name
