"""What counts as a text: one rule for captions, questions and answers of every source."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping

# What tables and programs write where a value is missing. No caption and no question is one of
# these words, but people answer "none" and "n/a" (VQA v2 has both, and none of the others).
MISSING_ANSWERS = frozenset({"nan", "null", "<na>"})
MISSING_TEXTS = MISSING_ANSWERS | {"none", "n/a"}


class NoText(ValueError):
    """Why a value is no text, to follow "the caption": "is empty"."""


def real_text(value: object, is_answer: bool = False) -> str:
    """Return what a source gives as a text, without white space and invisible characters around it.

    A number is the text that writes it (3.0 is "3"). Raises NoText for what is missing (null, NaN,
    or the words that tables write for it), for what is empty or invisible, for a caption or a
    question of nothing but punctuation, for text that was not stored as UTF-8, and for other kinds
    of values. Of answers people gave, "none" and "?" stay: the VQA accuracy counts them.
    """
    text = (value if isinstance(value, str) else _written(value)).strip()
    if not text.isprintable() or not text[:1].isalnum():  # most texts need no closer look
        text = _visible(text)
    if not is_answer and not text[:1].isalnum() and not _has_word(text):
        raise NoText(f"is {text!r}, without a word")
    if text.lower() in (MISSING_ANSWERS if is_answer else MISSING_TEXTS):
        raise NoText(f"is {text!r}, which stands for a missing one")
    return text


def _written(value: object) -> str:
    """The text that writes a number. Raises NoText for what is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise NoText("is missing")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoText(f"is {kind_of(value)}, not a text")
    return str(int(value)) if value == int(value) else str(value)


def _has_word(text: str) -> bool:
    """Whether there is anything but punctuation and spaces; signs such as emoji are words."""
    return any(unicodedata.category(character)[0] not in "PZC" for character in text)


def _visible(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise NoText("has characters that are not UTF-8")
    kinds = [unicodedata.category(character) for character in text]
    shown = [i for i, kind in enumerate(kinds) if kind[0] != "Z" and kind not in ("Cc", "Cf")]
    if not shown:
        raise NoText("has only characters that cannot be seen" if text else "is empty")
    pairs = zip(text, kinds, strict=True)
    plain = [" " if kind == "Cc" and c not in "\n\t" else c for c, kind in pairs]
    return "".join(plain[shown[0] : shown[-1] + 1])


def kind_of(value: object) -> str:
    """What a value of a JSON file or a table is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bytes):
        return "bytes"
    return "an object" if isinstance(value, Mapping) else "a list"
