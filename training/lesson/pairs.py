"""A source and a target of words whose alignment is known, and the words of many of them as ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlm.errors import UserError

Links = frozenset[tuple[int, int]]
"""Places of words that belong together, each `(target, source)`."""


class LessonError(UserError):
    """A recipe, folder or sentence that the lesson cannot work with; the message says why."""


@dataclass(frozen=True)
class AlignedPair:
    """Words of a source, words of a target, and which belong together.

    `sure` links join words of one meaning. `possible` has these and what grammar joins besides: a word and what it
    agrees with, an auxiliary and its verb (the two kinds of Och and Ney 2003).
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    sure: Links
    possible: Links

    def __post_init__(self) -> None:
        for target, source in self.possible:
            if not (0 <= target < len(self.target) and 0 <= source < len(self.source)):
                raise ValueError(f"link {(target, source)} is outside of {self}")
        if not self.sure <= self.possible:
            raise ValueError(f"a sure link is not possible in {self}")


class Vocabulary:
    """Words as ids, behind `PAD`, `END`, `START` and `UNKNOWN`."""

    PAD, END, START, UNKNOWN = range(4)
    SPECIAL = ("<pad>", "<end>", "<start>", "<unknown>")

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self.ids = {word: i for i, word in enumerate((*self.SPECIAL, *words))}

    def __len__(self) -> int:
        return len(self.SPECIAL) + len(self.words)

    @classmethod
    def of(cls, pairs: Iterable[AlignedPair], least: int = 1) -> Vocabulary:
        """The words that occur at least so often, sources and targets together, in the order of the alphabet."""
        counts: dict[str, int] = {}
        for pair in pairs:
            for word in (*pair.source, *pair.target):
                counts[word] = counts.get(word, 0) + 1
        return cls(sorted(word for word, count in counts.items() if count >= least))

    def encode(self, words: Iterable[str]) -> list[int]:
        return [self.ids.get(word, self.UNKNOWN) for word in words]

    def decode(self, ids: Iterable[int]) -> list[str]:
        names = (*self.SPECIAL, *self.words)
        return [names[i] for i in ids]
