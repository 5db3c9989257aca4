"""Text to ids and back, and the joining of tokens into words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from vlm.typed import check_fields

# A word, or one punctuation mark: "dog-sled's," is two.
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")

UNFINISHED = "\ufffd"  # bytes that only with others are a character

# Tokens of models that mark fields or places, see `vlm.fields` and `vlm.boxes`.
_MARK = re.compile(r"</?s_.+>|<sep/>|<loc_\d+>")


@dataclass(frozen=True)
class TextConfig:
    """How words meet the decoder: the special tokens, and the prompts that start a caption or an answer.

    A caption's prompt is `[caption]`, and the words of `prompt` if any; a question's is `[question] words [answer]`.
    Where a reader reads the question, its answer starts as a caption does. The text ends with `end`. A model that
    answers no questions leaves `question` and `answer` empty. `task` stands before a question and `question_end` behind
    its words, where a model has such marks; `begin` is the token that every text of it begins with, behind the prompt.
    Of a model that was trained on questions as people write them, `verbatim` keeps their case and their marks. `fields`
    says that texts hold marked fields, see `vlm.fields`. `instructions` are what a model was trained to be told, by a
    name such as "caption", with {} where a text of the user's goes. `painted` says that a question is painted above the
    picture, so that the encoder reads it, and the answer starts as a caption does.
    """

    pad: str = "<pad>"
    end: str = "<end>"
    caption: str = "<caption>"
    question: str = "<question>"
    answer: str = "<answer>"
    prompt: str = ""
    task: str = ""
    question_end: str = ""
    begin: str = ""
    verbatim: bool = False
    fields: bool = False
    instructions: dict[str, str] = field(default_factory=dict)
    painted: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class WordSpan:
    """One word of a text: its characters `[start, stop)` and the positions of the tokens that spell it."""

    text: str
    start: int
    stop: int
    tokens: tuple[int, ...]


class Tokenizer:
    """A `tokenizers` backend together with the model's special tokens."""

    def __init__(self, backend: Backend, config: TextConfig) -> None:
        self.backend = backend
        # Who writes "<end>" means these five characters: no text has special tokens, only what is put around it.
        backend.encode_special_tokens = True
        self.config = config
        added = backend.get_added_tokens_decoder().items()
        self.marks = frozenset(i for i, token in added if _MARK.fullmatch(token.content))
        self.pad = self._special(config.pad)
        self.end = self._special(config.end)
        self.caption = self._special(config.caption)
        # Both are empty where the model answers no questions.
        self.question = self._special(config.question) if config.question else None
        self.answer = self._special(config.answer) if config.answer else None
        self.begin = self._special(config.begin) if config.begin else None
        self.task = self._special(config.task) if config.task else None
        self.question_end = self._special(config.question_end) if config.question_end else None

    def _special(self, token: str) -> int:
        number = self.backend.token_to_id(token)
        if number is None:
            raise ValueError(f"tokenizer.json has no token {token!r}, which config.json names")
        return number

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Backend, TextConfig]]:
        # A copy of a backend has its vocabulary, but not what it was told about special tokens.
        return Tokenizer, (self.backend, self.config)

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without special tokens; what looks like a special token in it is plain text."""
        text = text.encode("utf-8", "replace").decode()  # what was no UTF-8 when it came in
        return self.backend.encode(text.strip(), add_special_tokens=False).ids

    def pieces(self, text: str) -> tuple[list[int], list[str]]:
        """The ids of `encode`, and what of the text each stands for; a space in front says that a word begins."""
        text = text.encode("utf-8", "replace").decode().strip()
        encoded = self.backend.encode(text, add_special_tokens=False)
        begins = [start == 0 or text[start].isspace() for start, _ in encoded.offsets]
        parts = [text[start:end].strip() for start, end in encoded.offsets]
        return encoded.ids, [f" {part}" if new else part for new, part in zip(begins, parts)]

    def inside_words(self, size: int) -> list[bool]:
        """Of each of the first `size` ids, whether its token goes on within a word, as "ing" and no mark does."""
        word = self.encode("a")
        begun = len(self.decode(word))
        rests = [self.decode([*word, i])[begun:] for i in range(size)]
        return [bool(rest) and (rest[0].isalnum() or rest[0] == UNFINISHED) for rest in rests]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens are dropped, and what a mark parts has a space between."""
        if self.marks.isdisjoint(ids):
            return self.backend.decode(list(ids), skip_special_tokens=True).strip()
        runs = [list(run) for marked, run in groupby(ids, self.marks.__contains__) if not marked]
        parts = [self.backend.decode(run, skip_special_tokens=True).strip() for run in runs]
        return " ".join(part for part in parts if part)

    def words(self, ids: Sequence[int]) -> list[WordSpan]:
        """The words that the ids spell, each with its tokens.

        Tokens join by character offset, so a word that occurs twice has two spans with tokens of their own. The
        space before a word, and bytes that only together make a character, belong to the word.
        """
        text = self.decode(ids)
        bounds = [0]
        for position in range(1, len(ids)):
            prefix = self.decode(ids[:position])
            # A prefix that ends inside a multi-byte character decodes to a replacement mark; it adds nothing yet.
            shared = len(prefix) if text.startswith(prefix) else bounds[-1]
            bounds.append(max(shared, bounds[-1]))
        bounds.append(len(text))
        spans: list[WordSpan] = []
        before = 0
        for match in _WORD.finditer(text):
            tokens = tuple(
                i
                for i in range(len(ids))
                if bounds[i] < match.end() and max(bounds[i + 1], bounds[i] + 1) > before
            )
            spans.append(WordSpan(match.group(), match.start(), match.end(), tokens))
            before = match.end()
        return spans

    def settled(self, ids: Sequence[int]) -> list[WordSpan]:
        """The words of the ids that no token that follows can change.

        Tokens without a space before them may still join the last stretch of characters, and the marks that a
        WordPiece decoder joins to their neighbours, as in "dog ' s", the one before it.
        """
        text = self.decode(ids)
        open_from = len(text)
        joins = isinstance(self.backend.decoder, decoders.WordPiece | decoders.Sequence)
        for _ in range(2 if joins else 1):
            open_from = len(text[:open_from].rstrip())
            while open_from > 0 and not text[open_from - 1].isspace():
                open_from -= 1
        return [span for span in self.words(ids) if span.stop <= open_from]

    def save(self, path: str | Path) -> None:
        self.backend.save(str(path))

    @classmethod
    def load(cls, path: str | Path, config: TextConfig) -> Tokenizer:
        """Read a `tokenizer.json`. Raises ValueError when it is not one."""
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the backend raises bare Exception
            raise ValueError(f"{path} is not a tokenizer file: {error}") from None
        return cls(backend, config)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 4096, config: TextConfig | None = None
    ) -> Tokenizer:
        """A byte-level BPE tokeniser of lower-cased text; any text can be encoded.

        Give it training texts only: a vocabulary that has seen test text is a leak.
        """
        config = config or TextConfig()
        backend = Backend(models.BPE())
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        specials = [config.pad, config.end, config.caption, config.question, config.answer]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend, config)
