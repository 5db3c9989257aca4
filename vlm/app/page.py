"""What one page of the app says: its photo, the caption and the answers, each word with its map."""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image
from torch import Tensor

from vlm.answers import Answer, Word
from vlm.app.cited import evidence_view
from vlm.app.shelf import Shelf
from vlm.boxes import Place
from vlm.captioner import Captioner
from vlm.documents.passages import Passage
from vlm.encoded_image import EncodedImage
from vlm.engine import Engine
from vlm.errors import UserError
from vlm.explain.maps import WordMap
from vlm.folder.metadata_passages import read_metadata
from vlm.follow_ups import Turn, follow_up
from vlm.images import ImageError
from vlm.images.frame import pixel_steps
from vlm.passages_beside import metadata_that_fits

if TYPE_CHECKING:  # an index needs packages of an extra
    from vlm.documents.index import Index

DISPLAY_SIZE = 1280  # pixels of the longer side of the copy that the browser shows
HEAT_SIZE = 320  # and of the heatmaps that the page draws: more than twice the patches of any encoder's side
KEPT_SIZE = 176  # and of the one in memory, for as long as the page is open

View = dict[str, Any]


class Superseded(Exception):
    """The user has asked for something newer meanwhile."""


class Page:
    """What one browser tab shows; each session has its own. `turn` counts what the user has asked for.

    `key` is known to that tab alone: by it, its look-ups find the page. `answers` are entries of the conversation, see
    `vlm.app.entries`, and `texts` what the model said or was told, by the number that the tab names it by.

    A photo has the rows and columns of its heatmaps' pixels as what each draws on, `Frame.spread` in short and as JSON:
    the first of two neighbouring patches and the second's share, or null where the photo was not seen; `box` is what
    was seen, as shares of its sides, and `grid` the patches that divide it.
    """

    def __init__(self) -> None:
        self.key = secrets.token_urlsafe()
        self.turn = 0
        self.image: EncodedImage | None = None
        self.photo: View | None = None
        self.source: Path | None = None  # the photo's file
        self.caption: View | None = None
        self.answers: list[View] = []
        self.texts: dict[int, Answer] = {}
        self.shelf = Shelf()
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

    def view(
        self, turn: int, busy: str | None = None, message: str | None = None, before: int = 0
    ) -> View:
        """What the browser is sent: the whole page, so that a lost update does no harm.

        `turn` counts what the user asked for; `busy` says what goes on, `message` what went wrong. Both are keys of
        `strings.json`; a message may also be a sentence. `before` is how many others have their turn first.
        """
        return {
            "turn": turn,
            "key": self.key,
            "busy": busy,
            "before": before,
            "message": message,
            "photo": self.photo,
            "caption": self.caption,
            "answers": list(self.answers),
        }

    def show_photo(self, image: EncodedImage, source: Path, file: View, name: str) -> EncodedImage:
        """Take up a new photo, in small, and leave the one before with all that was said about it."""
        self.source = source
        frame = image.frame
        canvas = frame.scaled(*fitted(frame.width, frame.height, HEAT_SIZE))
        grid = image.memory.image.grid or (1, 1)
        down, across = canvas.spread(grid)
        left, top, right, bottom = frame.scaled(1, 1).box
        self.image = small = image.shrunk(KEPT_SIZE)
        self.photo = {
            "turn": self.turn,
            "file": file,
            "name": name,
            "width": frame.width,
            "height": frame.height,
            "down": steps(down),
            "across": steps(across),
            "box": [left, top, right, bottom],
            "grid": list(grid),
        }
        self.caption = None
        self.answers = []
        self.texts = {}
        return small

    @property
    def turns(self) -> list[Turn]:
        """The questions that were asked of the photo, in order, each with its answer."""
        answers = [self.texts[e["text"]["id"]] for e in self.answers if e["kind"] == "answer"]
        return [Turn(own.question, own.text) for own in answers if own.question is not None]

    def keep(self, answer: Answer) -> int:
        """Number a text that was said of the photo."""
        number = len(self.texts)
        self.texts[number] = answer
        return number

    def __deepcopy__(self, memo: dict[int, Any]) -> Page:
        """Gradio gives each session a copy of the first page, which is empty."""
        return Page()


def describe(engine: Engine, page: Page, source: Path, name: str, turn: int) -> Iterator[View]:
    """Caption a photo word by word as the words become sure; the last view has their maps, too.

    A model that only answers questions shows it. When it is no photo, the page stays as it was and the view carries
    the message. Raises Superseded or Cancelled as soon as the user asks for something else.
    """
    page.begin(turn, engine)
    yield page.view(turn, busy="looking")
    with page.at(turn):
        # The photo is read in its turn, too: of a hundred visitors' photos one is in memory in full.
        reading = engine.call(page, lambda: engine.captioner.encode(source).shrunk(DISPLAY_SIZE))
    for before in engine.line(reading):
        yield page.view(turn, busy="looking", before=before)
    try:
        image = reading.result()
    except ImageError as error:
        yield page.view(turn, message=sentence(str(error).replace(str(source), f"“{name}”")))
        return
    file = _file(image.picture)
    with page.at(turn):
        small = page.show_photo(image, source, file, name)
    if "caption" not in engine.captioner.model.config.tasks:
        yield page.view(turn, message="no captions")
        return
    yield page.view(turn, busy="writing")
    with page.at(turn):
        writing = engine.caption(page, small)
    for before in engine.line(writing):
        yield page.view(turn, busy="writing", before=before)
    for words in writing:
        with page.at(turn):
            page.caption = unfinished(words)
        yield page.view(turn, busy="writing")
    caption = writing.result()
    for shown in finishing(engine, page, caption, turn):
        with page.at(turn):
            page.caption = shown
        yield page.view(turn, message=None if caption.words else "no words")


def stop(engine: Engine, page: Page, turn: int) -> Iterator[View]:
    """End what goes on; the words that were shown stay, and get their maps.

    Raises Superseded or Cancelled as soon as the user asks for something else.
    """
    page.begin(turn, engine)
    caption, image = page.caption, page.image
    if caption is None or image is None or caption["id"] is not None:
        yield page.view(turn)
        return
    text = " ".join(word["text"] for word in caption["words"])
    with page.at(turn):
        reading = engine.call(page, lambda: replace(image.explain(text), judgement=None))
    for shown in finishing(engine, page, reading.result(), turn):
        with page.at(turn):
            page.caption = shown
        yield page.view(turn)


def answer(
    engine: Engine, page: Page, question: str, turn: int, metadata: bool = False
) -> Iterator[View]:
    """Ask about the page's photo and the documents on its shelf, or about one of the two where the other is not there.

    With `metadata` what the photo's file says stands beside it, too. The last view has the answer, or the message why
    there is none. A pronoun that stands for what an earlier question was about is put into words first, and so is a
    thing that is named by its kind beside documents; the entry then has the question as it was `typed`.

    Raises Superseded or Cancelled as soon as the user asks for something else.
    """
    page.begin(turn, engine)
    yield page.view(turn, busy="answering")
    with page.at(turn):
        typed, question = question, follow_up(question, page.turns)
        image, index, source = page.image, page.shelf.index, page.source
        name = "" if page.photo is None else page.photo["name"]
    if image is None and not len(page.shelf):
        yield page.view(turn, message="no photo")
        return
    captioner, problem = engine.captioner, None
    try:
        captioner.prompt(question)  # what is wrong with it is told before anything is read
        also: Sequence[Passage] = ()
        if metadata and image is not None and source is not None:
            also, problem = told_by_file(captioner, source, name, bool(len(page.shelf)))
        beside = image or captioner.without_photo
        if also or (index is not None and len(index)):
            with page.at(turn):
                searching = engine.call(page, lambda: put_beside(beside, question, index, also))
            for before in engine.line(searching):
                yield page.view(turn, busy="searching", before=before)
            beside = searching.result()
        with page.at(turn):
            asking = engine.ask(page, beside, question)
    except UserError as error:
        yield page.view(turn, message=sentence(str(error)))
        return
    for before in engine.line(asking):
        yield page.view(turn, busy="answering", before=before)
    found = asking.result()
    place = len(page.answers)
    entry = {"kind": "answer", "typed": None if typed == found.question else typed}
    for shown in finishing(engine, page, found, turn):
        with page.at(turn):
            page.answers[place:] = [{**entry, "text": shown}]
        yield page.view(turn, message=problem)


def put_beside(
    image: EncodedImage, question: str, index: Index | None, also: Sequence[Passage]
) -> EncodedImage:
    """An image beside the passages `also`, and those of an index that a question is best answered from."""
    if index is None or not len(index):
        return image.beside(also)
    return image.look_up(index, question, also)


def told_by_file(
    captioner: Captioner, source: Path, name: str, beside_documents: bool
) -> tuple[list[Passage], str | None]:
    """As much of what a photo's file says as a model reads, and a sentence on what is left out.

    Raises MetadataError where packages are missing, and DocumentsError where the model reads no passages.
    """
    config = captioner.reading
    found = read_metadata(source, names=False)
    kept, left_out = metadata_that_fits(
        found.passages, captioner.tokenizer, config, beside_documents
    )
    problems = "; ".join([*found.problems, *([left_out] if left_out else [])])
    return kept, sentence(problems.replace(str(source), f"“{name}”")) if problems else None


def finishing(engine: Engine, page: Page, answer: Answer, turn: int) -> Iterator[View]:
    """A text with its maps and its `evidence`, and then with what the image did for its words, too; `page` keeps it.

    An answer from documents alone has no maps, and no image did anything for it.

    Raises Superseded or Cancelled as soon as the user asks for something else.
    """
    with page.at(turn):
        number = page.keep(answer)
        has_photo = answer.image is not None and not answer.image.blank
        looking = engine.call(
            page, lambda: (answer.maps() if has_photo else [], evidence_view(answer))
        )
        weighing = engine.call(page, lambda: answer.image_effect) if has_photo else None
    maps, rests_on = looking.result()
    shown = {**said(number, answer, maps), "evidence": rests_on}
    yield shown
    if weighing is None:
        return
    effect = weighing.result()
    words = [
        {**word, "effect": round(nats, 3)}
        for word, nats in zip(shown["words"], effect.words, strict=True)
    ]
    yield {**shown, "words": words, "effect": round(effect.total, 3), "blind": effect.blind}


def unfinished(words: Sequence[Word]) -> View:
    """A text that is still being written."""
    return {"id": None, "words": [_word(word.text, word.logprob) for word in words]}


def said(number: int, answer: Answer, maps: Sequence[WordMap]) -> View:
    """A text as the browser shows it.

    A word is `{"text", "probability", "map"}`; those of a question have no probability, and without `maps` the map is
    None. `id` is its number on the page, `candidates` are itself and its alternatives, `places` the boxes that it
    names; `effect` and `blind` come later, see `finishing`.
    """
    asked = [_word(m.text, None, m) for m in maps if m.role == "question"]
    if not asked and answer.question:  # it was painted above the picture: words without maps
        asked = [_word(word, None) for word in answer.question.split()]
    own: list[WordMap | None] = [word_map for word_map in maps if word_map.role != "question"]
    if not maps:
        own = [None] * len(answer.words)
    candidates = [(answer.text, answer.confidence)]
    candidates += [(other.text, other.confidence) for other in answer.alternatives]
    judgement = answer.judgement
    return {
        "id": number,
        "text": answer.text,
        "question": asked,
        "words": [
            _word(word.text, word.logprob, word_map)
            for word, word_map in zip(answer.words, own, strict=True)
        ],
        "confidence": round(answer.confidence, 4),
        "places": _places(answer),
        "candidates": [
            {"text": text, "confidence": round(confidence, 4)} for text, confidence in candidates
        ],
        "judgement": None
        if judgement is None
        else {"verdict": judgement.verdict, **{k: _short(v) for k, v in vars(judgement).items()}},
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


def steps(shares: np.ndarray) -> str:
    """A heatmap's rows or columns as JSON: Gradio copies a value number by number, and a text at once."""
    return json.dumps(pixel_steps(shares))


def rows(weights: Tensor) -> list[list[float]]:
    """A map for the browser."""
    return [[round(weight, 6) for weight in row] for row in weights.tolist()]


def sentence(text: str) -> str:
    """What a UserError says, as the page says it."""
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def _word(text: str, logprob: float | None, word_map: WordMap | None = None) -> View:
    return {
        "text": text,
        "probability": None if logprob is None else round(math.exp(logprob), 4),
        "map": None if word_map is None else rows(word_map.weights),
    }


def _short(value: float | bool) -> float | bool:
    return value if isinstance(value, bool) else round(value, 4)


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """A size of the same shape whose longer side is `side`."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _file(picture: Image.Image) -> View:
    """A file for the browser: upright, opaque and in colours it knows."""
    path = save_pil_to_cache(picture, cache_dir=get_upload_folder(), format="jpeg")
    return gr.FileData(path=path).model_dump()
