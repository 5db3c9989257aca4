"""Text as passages: their lengths, where they end, and that nothing is lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.documents.passages import MOST, SHORT, Passage, cut

FACT = "The mill at Orsk was built in 1823 by Anna Vost, who paid forty crowns for its wheel. "


def words(text: str) -> list[str]:
    return text.split()


def test_passages_have_40_to_60_words_and_end_where_sentences_do():
    passages = cut(FACT * 100, "mill.txt")
    assert {len(words(p.text)) for p in passages[:-1]} == {54}
    assert all(p.text.startswith("The mill") and p.text.endswith("wheel.") for p in passages)


@given(st.text(alphabet="ab A.!?\n。猫”)1", max_size=2000))
def test_no_word_is_lost_and_offsets_are_exact(text):
    passages = cut(text, "x", 3)
    end = 0
    for passage in passages:
        assert text[passage.start : passage.end] == passage.text != ""
        assert passage.page == 3
        assert not text[end : passage.start].strip()  # between two passages stands nothing
        end = passage.end
    assert not text[end:].strip()


@pytest.mark.parametrize(
    "text",
    [
        "word " * 1000,  # no sentence ends
        "猫坐在垫子上" * 200,  # nor spaces
        "x" * 20_000,
        "- one\n" * 500,
        "Short. " * 500,
        ("long " * 59 + "end. " + "Heading.\n\n") * 20,
    ],
)
def test_passages_are_never_long(text):
    counts = [max(len(words(p.text)), len(p.text) // 41) for p in cut(text, "x")]
    assert max(counts) < MOST + SHORT
    assert len(counts) == 1 or min(counts) >= SHORT or "猫" in text


@pytest.mark.parametrize(
    "start",
    [
        "Dr. Smith and Prof. J. R. Lee",
        "It was e.g. Smith",
        "In Fig. 3 it",
        "About 3.5 m it",
        "No. 5",
    ],
)
def test_abbreviations_end_no_sentence(start):
    before = "so it went on and on " * 7  # 42 words: the first end closes the passage
    text = f"{before}{start} Stone stood there until noon. Then {'it fell down ' * 9}"
    first, *_ = cut(text, "x")
    assert first.text.endswith("noon.")


def test_an_empty_line_ends_a_sentence():
    verse = "the rain came down upon the town " * 6
    first, second = cut(f"{verse}\n\nand then {verse}", "x")
    assert second.text.startswith("and then")
    assert first.text.endswith("town")


@pytest.mark.parametrize("text", ["", " \n\t\n "])
def test_a_text_without_words_has_no_passages(text):
    assert cut(text, "x") == []


def test_a_passage_is_a_value():
    assert Passage("a", "x", None, 0, 1) == Passage("a", "x", None, 0, 1)


@pytest.mark.parametrize("piece", [".", "\n", "A.", '"', ". ", "!”", " \n", "。", "a" * 50])
def test_cutting_takes_time_in_proportion(piece):
    start = time.process_time()
    cut(piece * 20_000, "x")
    assert time.process_time() - start < 5
