"""What stands before and behind a caption where it is written: prefix, suffix, trigger word."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from vlm.errors import UserError

PLACES = ("name", "folder")


class WordingError(UserError):
    """A prefix, suffix or trigger word with a place in braces that there is not."""


@dataclass(frozen=True)
class Wording:
    """Texts around a caption, in which `{name}` is the photo's name and `{folder}` that of its folder.

    The trigger word, which image generators learn for a subject or a style, comes first, and a comma behind it; a text
    that has the word already keeps it where it is. Raises WordingError for other places in braces.
    """

    prefix: str = ""
    suffix: str = ""
    trigger: str = ""

    def __post_init__(self) -> None:
        for text in (self.prefix, self.suffix, self.trigger):
            for place in re.findall(r"\{(.*?)\}", text):
                if place not in PLACES:
                    raise WordingError(
                        f"there is no {{{place}}} to put into {text!r}; there are {{name}} and {{folder}}"
                    )

    def __call__(self, caption: str, path: str) -> str:
        """The caption of a file as it is written."""
        prefix, suffix, trigger = (
            _filled(text, path) for text in (self.prefix, self.suffix, self.trigger)
        )
        text = f"{prefix}{_space(prefix, caption)}{caption}{_space(caption, suffix)}{suffix}"
        if trigger and not re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
            text = f"{trigger}, {text}"
        return text


def _filled(text: str, path: str) -> str:
    """The text with the names of a file in it, as far as a line of text can hold them."""
    folder, name = os.path.split(os.path.abspath(path))
    names = {"name": os.path.splitext(name)[0], "folder": os.path.basename(folder)}
    return re.sub(r"\{(\w+)\}", lambda place: printable(names[place[1]]), text)


def printable(name: str) -> str:
    """A file's name as text: what is not UTF-8 or has no sign becomes a mark or a space."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _space(before: str, after: str) -> str:
    """A space between two texts that would run into each other."""
    apart = not before or not after or before[-1].isspace()
    return "" if apart or after[0].isspace() or after[0] in ",.;:!?)" else " "
