"""What one page of the app says: its photo, the caption and the answers, each word with its map."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from vlm.answers import IN_WORDS, Answer
from vlm.boxes import Place
from vlm.captioner import EncodedImage
from vlm.engine import Engine
from vlm.explain.maps import WordMap
from vlm.images import ImageError
from vlm.images.frame import pixel_steps
from vlm.prompts import QuestionError

DISPLAY_SIZE = 1280  # pixels of the longer side of the copy that the browser shows
HEAT_SIZE = 320  # and of the heatmaps that the page draws: more than twice the patches of any encoder's side
KEPT_SIZE = 176  # and of the one in memory, for as long as the page is open

View = dict[str, Any]


class Superseded(Exception):
    """The user has asked for something newer meanwhile."""


class Page:
    """What one browser tab shows; each session has its own. `turn` counts what the user has asked for.

    A photo has the rows and columns of its heatmaps' pixels as what each draws on, `Frame.spread` in short: the first
    of two neighbouring patches and the second's share, or None where the model did not see the photo.
    A word is `{"text": str, "probability": float | None, "map": rows | None}`: words of a question have no
    probability, and words of a caption that is still being written have no map.
    """

    def __init__(self) -> None:
        self.turn = 0
        self.image: EncodedImage | None = None
        self.photo: View | None = None
        self.caption: list[View] = []
        self.verdict = ""  # on the caption
        self.answers: list[View] = []
        self.lock = threading.Lock()

    def begin(self, turn: int, engine: Engine) -> None:
        """Take back all that was asked before. Raises Superseded when something newer overtook it on its way."""
        with self.lock:
            if turn <= self.turn:
                raise Superseded
            self.turn = turn
            engine.cancel(self)

    @contextmanager
    def at(self, turn: int) -> Iterator[None]:
        """For changes of the page and requests to the engine. Raises Superseded when something newer has been asked."""
        with self.lock:
            if turn != self.turn:
                raise Superseded
            yield

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
            "verdict": self.verdict,
            "answers": list(self.answers),
        }

    def show_photo(self, image: EncodedImage, file: View, name: str) -> None:
        """Take up a new photo and leave the one before with all that was said about it."""
        frame = image.frame
        canvas = frame.scaled(*_fitted(frame.width, frame.height, HEAT_SIZE))
        down, across = canvas.spread(image.memory.image.grid or (1, 1))
        self.image = image.shrunk(KEPT_SIZE)
        self.photo = {
            "turn": self.turn,
            "file": file,
            "name": name,
            "width": frame.width,
            "height": frame.height,
            "down": pixel_steps(down),
            "across": pixel_steps(across),
        }
        self.caption = []
        self.verdict = ""
        self.answers = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Page:
        """Gradio gives each session a copy of the first page, which is empty."""
        return Page()


def describe(engine: Engine, page: Page, source: Path, name: str, turn: int) -> Iterator[View]:
    """Caption a photo word by word as the words become sure; the last view has their maps, too.

    A model that only answers questions shows it. When it is no photo, the page stays as it was and the view carries
    the message. Raises Superseded or Cancelled as soon as the user asks for something else.
    """
    page.begin(turn, engine)
    yield page.view(turn, busy="Looking…")
    with page.at(turn):
        # The photo is read in its turn, too: of a hundred visitors' photos one is in memory in full.
        reading = engine.call(page, lambda: engine.captioner.encode(source).shrunk(DISPLAY_SIZE))
    try:
        image = reading.result()
    except ImageError as error:
        yield page.view(turn, message=_sentence(str(error).replace(str(source), f"“{name}”")))
        return
    file = _file(image.picture)
    with page.at(turn):
        page.show_photo(image, file, name)
    if "caption" not in engine.captioner.model.config.tasks:
        yield page.view(turn, message="This model writes no captions; ask it a question.")
        return
    yield page.view(turn, busy="Writing…")
    with page.at(turn):
        writing = engine.caption(page, image)
    for words in writing:
        with page.at(turn):
            page.caption = [_word(word.text, word.logprob) for word in words]
        yield page.view(turn, busy="Writing…")
    caption = writing.result()
    with page.at(turn):
        looking = engine.call(page, caption.maps)
    maps = looking.result()
    with page.at(turn):
        page.caption = [
            _word(word.text, word.logprob, word_map)
            for word, word_map in zip(caption.words, maps, strict=True)
        ]
        page.verdict = verdict(caption)
    message = None if page.caption else "The model found no words for this photo."
    yield page.view(turn, message=message)


def answer(engine: Engine, page: Page, question: str, turn: int) -> Iterator[View]:
    """Ask about the page's photo; the last view has the answer, or the message why there is none.

    Raises Superseded or Cancelled as soon as the user asks for something else.
    """
    page.begin(turn, engine)
    yield page.view(turn, busy="Answering…")
    if page.image is None:
        yield page.view(turn, message="Choose a photo first.")
        return
    try:
        with page.at(turn):
            asking = engine.ask(page, page.image, question)
    except QuestionError as error:
        yield page.view(turn, message=_sentence(str(error)))
        return
    found = asking.result()
    with page.at(turn):
        looking = engine.call(page, found.maps)
    maps = looking.result()
    with page.at(turn):
        page.answers.append(answer_view(found, maps))
    yield page.view(turn)


def answer_view(answer: Answer, maps: Sequence[WordMap]) -> View:
    """An answer as the browser shows it: the words of both, the places that it names, and its alternatives."""
    asked = [word_map for word_map in maps if word_map.role == "question"]
    said = [word_map for word_map in maps if word_map.role == "answer"]
    candidates = [(answer.text, answer.confidence)]
    candidates += [(other.text, other.confidence) for other in answer.alternatives]
    return {
        "text": answer.text,
        "verdict": verdict(answer),
        "question": [_word(word_map.text, None, word_map) for word_map in asked],
        "words": [
            _word(word.text, word.logprob, word_map)
            for word, word_map in zip(answer.words, said, strict=True)
        ],
        "places": _places(answer),
        "candidates": [
            {"text": text, "confidence": round(confidence, 4)} for text, confidence in candidates
        ],
    }


def _places(answer: Answer) -> list[View]:
    """What the model named by its place: a label, and corners as shares of the photo's width and height."""
    if answer.image is None:
        return []
    width, height = answer.image.frame.width, answer.image.frame.height
    return [
        {
            "label": place.label,
            "corners": [[round(x / width, 4), round(y / height, 4)] for x, y in _around(place)],
        }
        for place in answer.places
    ]


def _around(place: Place) -> Sequence[tuple[float, float]]:
    """The corners of a place, of a box all four."""
    if len(place.corners) > 2:
        return place.corners
    left, top, right, bottom = place.box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def verdict(answer: Answer) -> str:
    """How far to trust an answer, as a sentence; empty where the checkpoint does not tell."""
    return "" if answer.verdict is None else IN_WORDS[answer.verdict]


def _word(text: str, logprob: float | None, word_map: WordMap | None = None) -> View:
    return {
        "text": text,
        "probability": None if logprob is None else round(math.exp(logprob), 4),
        "map": None
        if word_map is None
        else [[round(weight, 6) for weight in row] for row in word_map.weights.tolist()],
    }


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """A size of the same shape whose longer side is `side`."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def _file(picture: Image.Image) -> View:
    """A file for the browser: upright, opaque and in colours it knows."""
    path = save_pil_to_cache(picture, cache_dir=get_upload_folder(), format="jpeg")
    return gr.FileData(path=path).model_dump()
