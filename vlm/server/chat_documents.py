"""Documents that come with a chat completion: their passages beside the image, those that fit the question best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Annotated

from vlm.documents.passages import cut
from vlm.documents.vectors import Encoder
from vlm.encoded_image import EncodedImage
from vlm.errors import how_to_install
from vlm.passages_beside import DocumentsError, first_that_fit
from vlm.server.refusals import Refusal
from vlm.typed import Limit

MOST_CHARACTERS = (
    100_000  # of all documents of a request: they are searched in its turn, while others wait
)

Words = Annotated[str, Limit("a text with a word in it", lambda text: bool(text.strip()))]


@dataclass(frozen=True)
class Document:
    """A text of the caller's own, and the name that it is cited by."""

    name: Words
    text: Words


def check_size(documents: Sequence[Document]) -> None:
    """Raises Refusal where documents are too long in all, or two have one name."""
    count = sum(len(document.text) for document in documents)
    if count > MOST_CHARACTERS:
        raise Refusal(
            f"vlm.documents have {count:,} characters in all, and {MOST_CHARACTERS:,} are the most here; "
            "send those that matter",
            413,
            "request_too_large",
        )
    if len({document.name for document in documents}) < len(documents):
        raise Refusal("vlm.documents must have names that differ: answers cite them by name")


def beside_documents(
    image: EncodedImage, documents: Sequence[Document], question: str, encoder: Encoder
) -> EncodedImage:
    """The image beside all passages of the documents or, where they are more than a model reads, those that fit best.

    Raises DocumentsError where the model reads none, or a package for the search is missing.
    """
    captioner = image.captioner
    config = captioner.reading
    cut_up = {document.name: cut(document.text, document.name) for document in documents}
    passages = [passage for own in cut_up.values() for passage in own]
    if not passages:
        raise DocumentsError("vlm.documents have no word that can be read; send texts")
    if first_that_fit(passages, captioner.tokenizer, config) == passages:
        return image.beside(passages)
    try:
        from vlm.documents.index import Index
    except ModuleNotFoundError as error:
        raise DocumentsError(
            f"long documents need the package {error.name}; {how_to_install('documents')}"
        ) from None
    with TemporaryDirectory() as folder, Index.open(f"{folder}/index.db", encoder) as index:
        for name, own in cut_up.items():
            index.put(name, own)
        return image.look_up(index, question)
