"""The one way in which text meets the model, in training, evaluation and use: what is asked, as ids.

Which tokens are given and which the model chooses is known here alone.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from vlm.errors import UserError
from vlm.tokenizer import Tokenizer

# Signs that keyboards write in several ways. Unicode's own compatibility forms (full-width marks, say) are left to it.
_SAME = str.maketrans(
    {**dict.fromkeys("‘’‛′´`", "'"), **dict.fromkeys("“”„‟″", '"')}
    | dict.fromkeys("\u00ad\u200b\u2060\ufeff", "")  # they have no width
)


_PAINTED = 2_000  # characters above a picture, of which more would leave it no room


class QuestionError(UserError):
    """A question or text that the model cannot be asked; the message says why."""


@dataclass(frozen=True)
class Prompt:
    """The ids that a text continues; `given` are the positions among them of the user's own words."""

    ids: tuple[int, ...]
    given: range = range(0)

    def rows(self, count: int) -> list[int]:
        """For each of the prompt's tokens and of `count` that follow, the row of a pass that shows where it looked.

        A given token was read: its row is its own. A chosen one was predicted by the row before it, and where it
        looked as it was chosen is that row's.
        """
        size = len(self.ids)
        return [*range(size), *range(size - 1, size - 1 + count)]


def clean_text(text: str) -> str:
    """A text as the model reads and writes it: plain marks, single spaces, none before punctuation, no full stop."""
    text = unicodedata.normalize("NFKC", text.translate(_SAME))
    text = " ".join("".join(c if c.isprintable() and c != "_" else " " for c in text).split())
    text = re.sub(r"\s+([,.;:!?'])", r"\1", text)
    return text.rstrip(". ")


def clean_question(text: str) -> str:
    """A question in the one spelling that the model learns: a clean text in lower case that ends in one "?".

    Raises QuestionError when there is no word in it.
    """
    text = clean_text(text).lower().rstrip("?!. ")
    if not text:
        raise QuestionError("the question is empty; write one")
    return text + "?"


def caption_prompt(tokenizer: Tokenizer) -> Prompt:
    """What a caption continues, and with a reader an answer, too."""
    start = [i for i in (tokenizer.caption, tokenizer.begin) if i is not None]
    return Prompt((*start, *tokenizer.encode(tokenizer.config.prompt)))


def instruction(tokenizer: Tokenizer, name: str, text: str = "") -> str:
    """What tells a model to do something by name, about a text of the user's where that is a part of it.

    Raises QuestionError when it was not trained to do that, or the text is missing.
    """
    known = tokenizer.config.instructions
    if name not in known:
        told = f"; it knows {', '.join(known)}" if known else ""
        raise QuestionError(f"this model was not trained for {name!r}{told}")
    if "{}" in known[name] and not clean_text(text):
        raise QuestionError(f"{name} needs a text; write one")
    return known[name].replace("{}", text.strip())


def question_prompt(tokenizer: Tokenizer, question: str, room: int | None = None) -> Prompt:
    """What asks a question; the answer continues it, or a reader reads it.

    A question may also be an instruction's name, such as "detect" or "ground: a dog"; see `TextConfig.instructions`.
    Raises QuestionError where the question has no word, where of the `room` tokens that the model reads it leaves none,
    or where the model answers none. One that is painted above the picture is no part of the prompt.
    """
    if tokenizer.config.painted:
        if len(_spelled(tokenizer, question)) > _PAINTED:
            raise QuestionError(
                f"the question is too long: {len(question)} characters, and this model reads {_PAINTED}"
            )
        return caption_prompt(tokenizer)
    if tokenizer.question is None or tokenizer.answer is None:
        raise QuestionError("this model answers no questions; it writes captions")
    words = tokenizer.encode(_spelled(tokenizer, question))
    before = [i for i in (tokenizer.task, tokenizer.question) if i is not None]
    behind = [i for i in (tokenizer.question_end, tokenizer.answer) if i is not None]
    most = None if room is None else room - len(before) - len(behind) - 1  # a word follows
    if most is not None and len(words) > most:
        raise QuestionError(
            f"the question is too long: {len(words)} tokens, and this model reads {most}"
        )
    given = range(len(before), len(before) + len(words))
    return Prompt((*before, *words, *behind), given)


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a caption or an answer, without its end; none where there is no word in it."""
    return tokenizer.encode(text if tokenizer.config.verbatim else clean_text(text))


def named_instruction(tokenizer: Tokenizer, question: str) -> str | None:
    """The name of the instruction that a question is: "detect", or "ground: a dog" where it has a text, or None."""
    name = question.partition(":")[0].strip().lower()
    return name if name in tokenizer.config.instructions else None


def _spelled(tokenizer: Tokenizer, question: str) -> str:
    """A question as the model learnt to read them. Raises QuestionError when there is no word in it."""
    if (name := named_instruction(tokenizer, question)) is not None:
        return instruction(tokenizer, name, question.partition(":")[2])
    if not tokenizer.config.verbatim:
        return clean_question(question)
    if not clean_text(question):
        raise QuestionError("the question is empty; write one")
    return question.strip()
