"""What a document parser's tokens stand for: fields by name, as JSON (Donut, Kim et al. 2022).

`<s_name>` opens a field and `</s_name>` closes it; `<sep/>` parts several values of one, and `<name/>` is a value that
is one token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from vlm.tokenizer import Tokenizer

SEPARATOR = "<sep/>"
_MARK = re.compile(r"</?s_.+>")
_CATEGORY = re.compile(r"<([^<>]+)/>")

Part = str
"""A mark such as `<s_total>`, or between marks a text that begins with a space."""


def is_mark(token: str) -> bool:
    """Whether a token marks a field or parts two values."""
    return token == SEPARATOR or _MARK.fullmatch(token) is not None


def fields_of(tokenizer: Tokenizer, ids: Sequence[int]) -> Any:
    """The fields that the ids spell, as JSON has them: a mapping, or a list of several; None where there are none.

    A field holds a text, a mapping of fields, or a list of either. A mark without its partner is passed over, and so is
    text beside fields.
    """
    added = tokenizer.backend.get_added_tokens_decoder()
    marks = {i for i, token in added.items() if is_mark(token.content)}
    categories = {i: m[1] for i, t in added.items() if (m := _CATEGORY.fullmatch(t.content))}
    parts: list[Part] = []
    for marked, run in groupby(ids, key=lambda i: i in marks):
        if marked:
            parts += [added[i].content for i in run]
        else:
            own = list(run)
            parts.append(f" {categories.get(own[0]) or tokenizer.decode(own)}")
    value = _value(parts)
    return value if isinstance(value, dict) or (value and isinstance(value[0], dict)) else None


def _value(parts: Sequence[Part]) -> Any:
    """The text, the fields, or the list of either that parts hold."""
    objects: list[dict[str, Any]] = [{}]
    texts = [""]
    place = 0
    while place < len(parts):
        part = parts[place]
        place += 1
        if part == SEPARATOR:
            objects.append({})
            texts.append("")
        elif part.startswith(" "):
            texts[-1] += part
        elif part.startswith("<s_"):
            closing = part.replace("<s_", "</s_", 1)
            if closing in parts[place:]:
                stop = parts.index(closing, place)
                objects[-1][part[len("<s_") : -1]] = _value(parts[place:stop])
                place = stop + 1
    values: list[Any] = [one for one in objects if one] or [text.strip() for text in texts]
    return values[0] if len(values) == 1 else values
