"""Tokens of any of transformers' tokenizers as words, by what each adds to the text that the ones before spell."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

JOINERS = "'’-"
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")  # scripts


@dataclass(frozen=True)
class TokenWord:
    """A word and the places of its tokens."""

    text: str
    places: tuple[int, ...]


def token_words(tokenizer: Any, ids: Sequence[int]) -> list[TokenWord]:
    """The words that tokens spell. Special tokens are in none; in scripts without spaces each token is a word."""
    special = set(tokenizer.all_special_ids)
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.pad_token_id):  # as CLIP's
        special -= {tokenizer.unk_token_id}
    places = [place for place, token in enumerate(ids) if token not in special]
    text = ""
    starts: list[int] = []  # of each word, where it starts in the text
    owned: list[list[int]] = []  # and its places
    for count, place in enumerate(places, 1):
        longer = tokenizer.decode(
            [ids[p] for p in places[:count]],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        added = longer[len(text) :]
        if added.strip() and (not owned or _begins(text, added)):
            starts.append(len(text))
            owned.append([place])
        elif owned:  # bytes of a letter add nothing until it is whole
            owned[-1].append(place)
        text = longer
    ends = [*starts[1:], len(text)]
    return [
        TokenWord(text[start:end].strip(), tuple(own))
        for start, end, own in zip(starts, ends, owned)
    ]


def _begins(text: str, added: str) -> bool:
    """Whether what a token adds to a text begins a word."""
    last, first = text[-1:], added.lstrip()[0]
    if last.isspace() or added[0].isspace():
        return True
    if first in JOINERS or last in JOINERS:
        return False
    if not (first.isalnum() and last.isalnum()):
        return not unicodedata.category(first).startswith("M")  # marks belong to the letter before
    return unicodedata.name(first, "").startswith(UNSPACED)
