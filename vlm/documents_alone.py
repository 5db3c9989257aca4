"""Questions about documents alone, without a photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm.answers import Answer
from vlm.captioner import Captioner
from vlm.documents.passages import Passage
from vlm.documents.ranking import Searchable
from vlm.loading import load
from vlm.passages_beside import DocumentsError


def ask_documents(
    question: str,
    documents: Sequence[str | Passage] | Searchable,
    model: Captioner | str | None = None,
    **options: Any,
) -> Answer:
    """Answer a question from documents: texts, passages, or those of an index or a database that fit it best.

    `model` is one that reads documents, or what `vlm.load` finds it by; `options` are those of `vlm.Options`. Where a
    photo would be stands the mean image, so an answer is cited from a passage, or from nothing. Raises DocumentsError
    where the model reads none or there is none to read, and QuestionError when the question is empty or too long.
    """
    captioner = model if isinstance(model, Captioner) else load(model)
    _ = captioner.reading  # what is wrong is told before the search
    captioner.prompt(question)
    blank = captioner.without_photo
    image = (
        blank.beside(documents)
        if isinstance(documents, Sequence)
        else blank.look_up(documents, question)
    )
    if not image.passages:
        raise DocumentsError("there is no document to answer from; give some")
    return image.ask(question, **options)
