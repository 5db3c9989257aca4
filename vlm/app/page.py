"""What one page of the app says: its photo, the caption and the answers, each word with its map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from vlm.answers import Answer
from vlm.captioner import Captioner, EncodedImage
from vlm.explain.maps import WordMap
from vlm.images import ImageError
from vlm.prompts import QuestionError

DISPLAY_SIZE = 1280  # pixels of the longer side of the copy that the browser shows

View = dict[str, Any]


@dataclass(eq=False)
class Page:
    """What one browser tab shows; each session has its own. `turn` counts what the user has asked for.

    A word is `{"text": str, "probability": float | None, "map": rows | None}`: words of a question have no
    probability, and words of a caption that is still being written have no map.
    """

    turn: int = 0
    image: EncodedImage | None = None
    photo: View | None = None
    caption: list[View] = field(default_factory=list)
    answers: list[View] = field(default_factory=list)

    def view(self, turn: int, busy: str | None = None, message: str | None = None) -> View:
        """What the browser is sent: the whole page, so that a lost update does no harm.

        `turn` counts what the user asked for; `busy` says what goes on, `message` what went wrong.
        """
        return {
            "turn": turn,
            "busy": busy,
            "message": message,
            "photo": self.photo,
            "caption": list(self.caption),
            "answers": list(self.answers),
        }

    def show_photo(self, image: EncodedImage, name: str, turn: int) -> None:
        """Take up a new photo and leave the one before with all that was said about it."""
        frame = image.frame
        left, top, right, bottom = frame.box
        self.image = image
        self.photo = {
            "turn": turn,
            "file": _display_copy(image.picture),
            "name": name,
            "width": frame.width,
            "height": frame.height,
            "box": [
                left / frame.width,
                top / frame.height,
                right / frame.width,
                bottom / frame.height,
            ],
        }
        self.caption = []
        self.answers = []


def describe(
    captioner: Captioner, page: Page, source: Path, name: str, turn: int
) -> Iterator[View]:
    """Caption a photo word by word; the last view has the beam search's caption, with maps.

    A model that only answers questions shows it. When it is no photo, the page stays as it was and the view carries
    the message.
    """
    yield page.view(turn, busy="Looking…")
    try:
        image = captioner.encode(source)
    except ImageError as error:
        yield page.view(turn, message=_sentence(str(error).replace(str(source), f"“{name}”")))
        return
    page.show_photo(image, name, turn)
    if "caption" not in captioner.model.config.tasks:
        yield page.view(turn, message="This model writes no captions; ask it a question.")
        return
    yield page.view(turn, busy="Writing…")
    for word in image.stream():
        page.caption.append(_word(word.text, word.logprob))
        yield page.view(turn, busy="Writing…")
    page.caption = _caption_words(image.caption())
    message = None if page.caption else "The model found no words for this photo."
    yield page.view(turn, message=message)


def answer(page: Page, question: str, turn: int) -> Iterator[View]:
    """Ask about the page's photo; the last view has the answer, or the message why there is none."""
    yield page.view(turn, busy="Answering…")
    message = None
    if page.image is None:
        message = "Choose a photo first."
    else:
        try:
            page.answers.append(_answer(page.image.ask(question)))
        except QuestionError as error:
            message = _sentence(str(error))
    yield page.view(turn, message=message)


def _caption_words(caption: Answer) -> list[View]:
    return [
        _word(word.text, word.logprob, word_map)
        for word, word_map in zip(caption.words, caption.maps(), strict=True)
    ]


def _answer(answer: Answer) -> View:
    maps = answer.maps()
    asked = [word_map for word_map in maps if word_map.role == "question"]
    said = [word_map for word_map in maps if word_map.role == "answer"]
    candidates = [(answer.text, answer.confidence)]
    candidates += [(other.text, other.confidence) for other in answer.alternatives]
    return {
        "text": answer.text,
        "question": [_word(word_map.text, None, word_map) for word_map in asked],
        "words": [
            _word(word.text, word.logprob, word_map)
            for word, word_map in zip(answer.words, said, strict=True)
        ],
        "candidates": [
            {"text": text, "confidence": round(confidence, 4)} for text, confidence in candidates
        ],
    }


def _word(text: str, logprob: float | None, word_map: WordMap | None = None) -> View:
    return {
        "text": text,
        "probability": None if logprob is None else round(math.exp(logprob), 4),
        "map": None
        if word_map is None
        else [[round(weight, 6) for weight in row] for row in word_map.weights.tolist()],
    }


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def _display_copy(picture: Image.Image) -> View:
    """A file for the browser: upright, opaque, in colours it knows, and no larger than it can show."""
    copy = picture.copy()
    copy.thumbnail((DISPLAY_SIZE, DISPLAY_SIZE))
    path = save_pil_to_cache(copy, cache_dir=get_upload_folder(), format="jpeg")
    return gr.FileData(path=path).model_dump()
