"""The browser app: a photo, its caption and answers, and the heatmap of each word, in one Gradio component.

The page draws the heatmaps itself from the small maps it is sent, so choosing a word asks nothing of the server.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import matplotlib
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from vlm.captioner import Answer, Captioner, EncodedImage, QuestionError
from vlm.explain.maps import WordMap
from vlm.explain.overlay import COLOURS
from vlm.images import EXTENSIONS, ImageError
from vlm.weights.hub import bundled_folder

DISPLAY_SIZE = 1280  # pixels of the longer side of the copy that the browser shows
THUMBNAIL_SIZE = 176
MAX_UPLOAD = "100mb"

View = dict[str, Any]

log = logging.getLogger(__name__)


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


def build(captioner: Captioner) -> gr.Blocks:
    """The app of one model. Launch it with `serve`, or like any Gradio app."""
    examples = example_photos()

    def on_photo(event: gr.EventData, page: Page) -> Iterator[View]:
        # Gradio lets no path through that was not uploaded.
        yield from describe(captioner, page, Path(event.path), event.name, event.turn)

    def on_example(event: gr.EventData, page: Page) -> Iterator[View]:
        path = examples[event.index]
        yield from describe(captioner, page, path, path.name, event.turn)

    def on_question(event: gr.EventData, page: Page) -> Iterator[View]:
        yield from answer(page, event.question, event.turn)

    # Files of photos are deleted after a day, and when the app is interrupted.
    with gr.Blocks(
        title="vlm", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as blocks:
        page = gr.State(Page())
        here = Path(__file__)
        viewer = gr.HTML(
            page.value.view(turn=0),
            html_template=here.with_suffix(".html").read_text("utf-8"),
            css_template=here.with_suffix(".css").read_text("utf-8"),
            js_on_load=here.with_suffix(".js").read_text("utf-8"),
            apply_default_css=False,
            examples=[{"name": _title(path), "thumbnail": _thumbnail(path)} for path in examples],
            colours=_colours(),
        )
        # A photo chosen while another is read is asked for at once and answered in turn: "always_last" loses it when
        # the first reply ends as it arrives. The page shows only what was asked last.
        for listen, handler, mode in (
            (viewer.photo, on_photo, "multiple"),
            (viewer.example, on_example, "multiple"),
            (viewer.ask, on_question, "once"),
        ):
            listen(
                _guarded(handler),
                page,
                viewer,
                trigger_mode=mode,
                show_progress="hidden",
                api_visibility="private",
                # One at a time: the model uses every core, and a page's events come in order.
                concurrency_limit=1,
                concurrency_id="model",
            )
    return blocks


def serve(captioner: Captioner, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the app until interrupted. Raises OSError when the port is taken."""
    blocks = build(captioner)
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=MAX_UPLOAD,
        theme=_theme(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"Open {blocks.local_url} in a browser. Ctrl+C stops the app.", flush=True)
    blocks.block_thread()


def example_photos() -> list[Path]:
    """The photos that ship with the package, by name."""
    folder = bundled_folder() / "examples"
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in EXTENSIONS)


def _guarded(handler: Callable[..., Iterator[View]]) -> Callable[..., Iterator[View]]:
    """A defect becomes a line in the log and a sentence on the page, which stays as it was."""

    def guarded(event: gr.EventData, page: Page) -> Iterator[View]:
        # Requests may overtake each other on their way; the page has moved on.
        if event.turn < page.turn:
            yield page.view(event.turn)
            return
        page.turn = event.turn
        try:
            yield from handler(event, page)
        except Exception:
            log.exception("the app failed to answer %s", handler.__name__)
            message = "Something went wrong; the program's log says what."
            yield page.view(event.turn, message=message)

    return guarded


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


def _thumbnail(path: Path) -> str:
    """A small JPEG as a data URL."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        image.convert("RGB").save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _title(path: Path) -> str:
    return re.sub(r"[-_]+", " ", path.stem)


def _colours() -> list[list[int]]:
    """The overlay's colours from no attention to the most: red, green, blue and opacity, each in 0..255."""
    levels = [step / 255 for step in range(256)]
    colours = matplotlib.colormaps[COLOURS](levels)[:, :3].tolist()  # (256, 3)
    return [
        [round(255 * part) for part in (*colour, 0.4 + 0.6 * level)]
        for colour, level in zip(colours, levels)
    ]


def _theme() -> gr.themes.Base:
    """Fonts of the system, because the default theme asks another host for them."""
    theme = gr.themes.Base(font=["Inter", "system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(body_background_fill="#fbfbfa", body_background_fill_dark="#121419")
