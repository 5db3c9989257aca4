"""Text as passages: pieces of about 40 to 60 words that end where sentences do, and that know where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import regex

FEWEST, MOST = 40, 60  # words of a passage, where the sentences allow it
SHORT = 20  # words that do not stand alone while there is something to join them to

# Scripts without spaces count by character, and an endless run of letters counts as several words.
_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]{1,40}"
)
# A full stop ends a sentence before anything but a lower-case letter, unless an initial or one of the usual
# abbreviations wears it; an empty line ends one, whatever stands before it.
_SENTENCE_END = regex.compile(
    r"""(?<! \b(?: \p{Lu} | [DM]rs? | Ms | Prof | St | No | Nos | Fig | Figs | Eq | Vol | pp? | vs | cf | ca | approx
           | e\.g | i\.e | etc ) )
        (?<! [.!?…]) [.!?…]++ ["'”’»)\]]*+ (?= \s+ [^\s\p{Ll}] )
      | [。！？]++ [」』”）]*+
      | (?= \n [^\S\n]* \n )""",
    regex.VERBOSE,
)


@dataclass(frozen=True)
class Passage:
    """A piece of a document.

    `page` counts from 1, and is None where the source has no pages. `start` and `end` are character offsets in the
    page's text, or in the document's where there are no pages: `text` is exactly what stands between them.
    """

    text: str
    source: str
    page: int | None
    start: int
    end: int


def cut(text: str, source: str, page: int | None = None) -> list[Passage]:
    """The passages of a text, in order, that have all of its words; a text without words has none.

    A passage closes at the first sentence end after FEWEST words, or before the sentence that would bring it over MOST.
    Sentences of more than MOST words are cut between words into parts of one length.
    """
    spans: list[tuple[int, int, int]] = []  # start, end, words
    closed = True
    for start, end, words in _sentences(text):
        first, _, before = spans[-1] if spans else (0, 0, 0)
        if closed or (before >= SHORT and before + words > MOST):
            spans.append((start, end, words))
        else:
            spans[-1] = (first, end, before + words)
        closed = spans[-1][2] >= FEWEST
    if len(spans) > 1 and spans[-1][2] < SHORT:
        (first, _, before), (_, end, words) = spans[-2:]
        spans[-2:] = [(first, end, before + words)]
    return [Passage(text[start:end], source, page, start, end) for start, end, _ in spans]


def sentences(text: str) -> list[str]:
    """The sentences of a text, long ones in parts of up to MOST words; a text without words is one."""
    return [text[start:end] for start, end, _ in _sentences(text)] or [text]


def _sentences(text: str) -> Iterator[tuple[int, int, int]]:
    """Start, end and number of words of each sentence, or of each part of a long one."""
    start = 0
    for stop in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        words = list(_WORD.finditer(text, start, stop))
        start = stop
        parts = -(-len(words) // MOST)
        for part in range(parts):
            own = words[part * len(words) // parts : (part + 1) * len(words) // parts]
            yield own[0].start(), own[-1].end(), len(own)
