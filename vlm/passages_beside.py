"""Passages of documents beside an image: as tokens that a model reads, and as what an answer is spelled like."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlm.documents.passages import Passage
from vlm.documents.ranking import telling_words
from vlm.errors import UserError
from vlm.model.config import DocumentsConfig
from vlm.tokenizer import Tokenizer

NO_DOCUMENTS = (
    "this model reads no documents beside an image; the recipe small-documents.yaml teaches one to"
)
NOT_ON_OPENVINO = (
    "documents are read on torch alone; load this model without OpenVINO, in float32, bf16 or fp16"
)

_OF_ASKING = """
    can could document documents image know many me much must one photo picture please say says since tell until would
    you
"""
ASKING_WORDS = frozenset(
    _OF_ASKING.split()
)  # what is asked of, and how: no passage needs to have these


class DocumentsError(UserError):
    """Documents that cannot be read beside an image; the message says why."""


def as_passages(documents: Sequence[str | Passage]) -> list[Passage]:
    """Texts of the caller's own as passages of sources called "document 1" and so on; passages as they are.

    Raises DocumentsError for an empty text.
    """
    if isinstance(documents, str | Passage):
        raise DocumentsError(
            "documents are a list of texts or passages; put a single one in a list"
        )
    passages = []
    for number, document in enumerate(documents, 1):
        if isinstance(document, str):
            document = Passage(document, f"document {number}", None, 0, len(document))
        if not document.text.strip():
            raise DocumentsError(f"{document.source} has a passage without a word; leave it out")
        passages.append(document)
    return passages


def first_that_fit(
    passages: Sequence[Passage], tokenizer: Tokenizer, config: DocumentsConfig
) -> list[Passage]:
    """As many of the first passages as a model reads at once, but for those that are too long by themselves.

    Raises DocumentsError where all of them are.
    """
    kept: list[Passage] = []
    parts = 0
    for passage in passages:
        own = len(_parts(passage, tokenizer, config.length))
        if own > config.most:
            continue
        parts += own
        if parts > config.most:
            break
        kept.append(passage)
    if passages and not kept:
        raise DocumentsError(
            f"each passage that was found is longer than the {config.most} times {config.length} tokens that this "
            "model reads at once; give documents of shorter sentences"
        )
    return kept


def metadata_that_fits(
    passages: Sequence[Passage],
    tokenizer: Tokenizer,
    config: DocumentsConfig,
    beside_documents: bool,
) -> tuple[list[Passage], str | None]:
    """As much of a photo's metadata as a model reads at once, beside documents half of that; a sentence on the rest."""
    most = max(config.most // 2, 1) if beside_documents else config.most
    kept: list[Passage] = []
    parts = 0
    for passage in passages:
        own = len(_parts(passage, tokenizer, config.length))
        if parts + own <= most:
            kept.append(passage)
            parts += own
    left = dict.fromkeys(passage.source for passage in passages if passage not in kept)
    if not left:
        return kept, None
    return kept, f"of the metadata {most} passages are read at once; left out: {', '.join(left)}"


def fitting(
    passages: Sequence[Passage], tokenizer: Tokenizer, config: DocumentsConfig
) -> list[tuple[Passage, list[int], list[str]]]:
    """Passages with their token ids and what each spells; what is too long for the model is cut between words.

    Raises DocumentsError where they are more than the model reads at once.
    """
    cut = [
        (passage, ids, pieces)
        for passage in passages
        for ids, pieces in _parts(passage, tokenizer, config.length)
    ]
    if len(cut) > config.most:
        raise DocumentsError(
            f"the documents are {len(cut)} passages of up to {config.length} tokens, and this model reads "
            f"{config.most} at once; give those that matter, or search for them in an index (vlm index)"
        )
    return cut


def _parts(
    passage: Passage, tokenizer: Tokenizer, length: int
) -> list[tuple[list[int], list[str]]]:
    """A passage's token ids and what each spells, in parts of at most `length` that end between words."""
    ids, pieces = tokenizer.pieces(passage.text)
    begins = [n for n, piece in enumerate(pieces) if piece.startswith(" ")]
    count = -(-len(ids) // length)
    parts, start = [], 0
    while start < len(ids):
        # Parts of about one length, so that none is a few words.
        aim = min(start + -(-len(ids) // count), start + length, len(ids))
        stop = aim if aim == len(ids) else max((b for b in begins if start < b <= aim), default=aim)
        parts.append((ids[start:stop], pieces[start:stop]))
        start = stop
    return parts


def may_be_there(question: str, passages: Sequence[Passage]) -> bool:
    """Whether a passage has all the words that a question asks by, so that its answer may stand there."""
    asked = {_stem(word) for word in telling_words(question) if word not in ASKING_WORDS}
    return bool(asked) and any(
        asked <= {_stem(word) for word in telling_words(passage.text)} for passage in passages
    )


def stands_in(text: str, passages: Sequence[Passage]) -> bool:
    """Whether a passage has a text's words and signs in a row, whatever its capitals and spaces."""
    parts = re.findall(r"\w+|[^\w\s]", text)
    return bool(_places(r"\s*".join(re.escape(part) for part in parts), passages))


def _stem(word: str) -> str:
    ending = next((e for e in ("ing", "ed", "es", "s") if word.endswith(e)), "")
    return word.removesuffix(ending) if len(word) - len(ending) >= 3 else word


def spelled_as(
    words: Sequence[str],
    passages: Sequence[Passage],
    is_everyday: Callable[[str], bool] = lambda word: True,
) -> list[str]:
    """Words of a text with the capitals that they have where a passage has all of them in a row, or else each alone.

    A place inside a sentence counts before one at its start, where any word has a capital. Alone a word takes
    one only where it is not `is_everyday`, since any may begin a heading.
    """
    if not words:
        return []
    together = _places(r"\W+".join(f"({re.escape(word)})" for word in words), passages)
    if together:
        return list(min(together, key=lambda one: one[0])[1].groups())
    return [_alone(word, passages, is_everyday) for word in words]


def _alone(word: str, passages: Sequence[Passage], is_everyday: Callable[[str], bool]) -> str:
    if is_everyday(word):
        return word
    places = _places(re.escape(word), passages)
    inside = [match[0] for starts, match in places if not starts]
    if inside:
        return max(inside, key=inside.count)
    return places[0][1][0] if places else word


def _places(pattern: str, passages: Sequence[Passage]) -> list[tuple[bool, re.Match[str]]]:
    """Where passages have whole words, whatever their capitals, and whether a sentence starts there."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return [
        (
            match.start() == 0 or passage.text[: match.start()].rstrip()[-1:] in (".", "!", "?"),
            match,
        )
        for passage in passages
        for match in compiled.finditer(passage.text)
        if not (match.start() and passage.text[match.start() - 1].isalnum())
        and not passage.text[match.end() : match.end() + 1].isalnum()
    ]


def respelled(text: str, words: Sequence[str]) -> str:
    """A text with its words, in order, written as these, which differ from them in capitals alone."""
    at = 0
    for word in words:
        match = re.compile(re.escape(word), re.IGNORECASE).search(text, at)
        assert match is not None
        text = text[: match.start()] + word + text[match.end() :]
        at = match.start() + len(word)
    return text
