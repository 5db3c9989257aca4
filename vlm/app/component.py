"""The page as one Gradio component: its template, its events, and what they call.

The page draws the heatmaps itself from the small maps it is sent, so choosing a word asks nothing of the server.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import gradio as gr
import matplotlib
from PIL import Image

from vlm.app.compare import compare as compared
from vlm.app.endpoints import add_endpoints, owner_of
from vlm.app.entries import check, what_if
from vlm.app.folder_compare import agree, stop_agreeing
from vlm.app.folder_tab import FolderPage, folder_tab
from vlm.app.lookups import look_up, offered
from vlm.app.page import Page, Superseded, View, answer, describe, sentence, stop
from vlm.app.scripts import script
from vlm.app.shelf import KINDS, change_shelf
from vlm.documents.sentence_encoder import SharedEncoder
from vlm.engine import Cancelled, Engine
from vlm.errors import UserError
from vlm.explain.overlay import LEAST_PEAK
from vlm.explain.paint import COLOURS
from vlm.images import is_image
from vlm.weights.hub import bundled_folder

THUMBNAIL_SIZE = 176
SCRIPTS = (
    "text.js",
    "heat.js",
    "words.js",
    "place.js",
    "places.js",
    "cited.js",
    "talk.js",
    "panels.js",
    "save.js",
    "camera.js",
    "shelf.js",
    "component.js",
)
STYLES = ("component.css", "panels.css", "shelf.css")

log = logging.getLogger(__name__)


def build(engine: Engine, others: Mapping[str, Engine] | None = None) -> gr.Blocks:
    """The app of one engine, which may be compared with others, by name.

    Launch it with `vlm.app.launch.serve`, or like any Gradio app.
    """
    engines = {"": engine, **(others or {})}
    examples = example_photos()
    encoder = SharedEncoder()
    pages: WeakValueDictionary[str | None, Page] = WeakValueDictionary()  # by session
    folders: WeakValueDictionary[str | None, FolderPage] = WeakValueDictionary()
    by_key: WeakValueDictionary[str, Page] = WeakValueDictionary()

    def on_photo(event: gr.EventData, page: Page) -> Iterator[View]:
        # Gradio lets no path through that was not uploaded.
        yield from describe(engine, page, Path(event.path), event.name, event.turn)

    def on_example(event: gr.EventData, page: Page) -> Iterator[View]:
        path = examples[event.index]
        yield from describe(engine, page, path, path.name, event.turn)

    def on_question(event: gr.EventData, page: Page) -> Iterator[View]:
        yield from answer(engine, page, event.question, event.turn, event.metadata)

    def on_check(event: gr.EventData, page: Page) -> Iterator[View]:
        yield from check(engine, page, event.text, event.question, event.turn)

    def on_what_if(event: gr.EventData, page: Page) -> Iterator[View]:
        yield from what_if(engine, page, event.id, event.cells, event.keep, event.turn)

    def on_enter(event: gr.EventData, page: Page) -> Iterator[View]:
        # A page that brings documents before anything else learns its key by this.
        page.begin(event.turn, engine)
        yield page.view(event.turn)

    def on_stop(event: gr.EventData, page: Page) -> Iterator[View]:
        yield from stop(engine, page, event.turn)

    def look(asked: dict[str, Any]) -> View:
        """Look something up for the page that knows the key; see `vlm.app.lookups`."""
        return _replied(by_key, asked, lambda page: look_up(engine, page, asked))

    def shelve(asked: dict[str, Any]) -> View:
        """Change what is on the shelf of the page that knows the key; see `vlm.app.shelf`."""
        return _replied(by_key, asked, lambda page: change_shelf(page.shelf, asked, encoder))

    def compare(asked: dict[str, Any]) -> View:
        """Say by two models or settings what is in the photo of the page that knows the key."""
        return _replied(by_key, asked, lambda page: compared(engines, page, asked))

    def on_agree(event: gr.EventData, page: FolderPage, request: gr.Request) -> Iterator[View]:
        folders[request.session_hash] = page
        # The page lets go of views of an earlier comparison by their `turn`.
        for view in _told(agree(engines, page, {"sides": event.sides, "question": event.question})):
            yield {"turn": event.turn, **view}

    def on_halt(event: gr.EventData, page: FolderPage) -> None:
        stop_agreeing(engines, page)

    def on_leaving(request: gr.Request) -> None:
        if page := pages.get(request.session_hash):
            engine.cancel(page)
        if left := folders.get(request.session_hash):
            stop_agreeing(engines, left)
        engine.cancel(owner_of(request))

    # Files of photos are deleted after a day.
    with gr.Blocks(
        title="vlm", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as blocks:
        page = gr.State(Page())
        with gr.Tab("Look", elem_id="vlm-look"):
            viewer = gr.HTML(
                page.value.view(turn=0),
                html_template="",
                js_on_load=script(
                    "component.html",
                    STYLES,
                    SCRIPTS,
                    documentKinds=document_kinds(engine),
                    readsMetadata=importlib.util.find_spec("pyexiv2") is not None,
                    methods=offered([engine]),
                    heads=_heads(engine),
                    tellsVerdicts=engine.captioner.model.config.verdict is not None,
                    examples=[
                        {"name": _title(path), "thumbnail": _thumbnail(path)} for path in examples
                    ],
                    colours=_colours(),
                    leastPeak=LEAST_PEAK,
                ),
                apply_default_css=False,
                server_functions=[look, shelve],
            )
        with gr.Tab("Folder", elem_id="vlm-folder"):
            folder = folder_tab(engine, blocks)
        with gr.Tab("Compare", elem_id="vlm-compare"):
            comparison = gr.HTML(
                html_template="",
                js_on_load=script(
                    "compare.html",
                    ["compare.css"],
                    ["text.js", "heat.js", "compare.js", "folder_compare.js"],
                    methods=offered(engines.values()),
                    models=list(engines),
                    colours=_colours(),
                    leastPeak=LEAST_PEAK,
                ),
                apply_default_css=False,
                server_functions=[compare],
            )
        for listen, act, outputs in (
            (comparison.agree, on_agree, comparison),
            (comparison.halt, on_halt, None),
        ):
            listen(
                act,
                folder,
                outputs,
                trigger_mode="multiple",
                concurrency_limit=None,
                show_progress="hidden",
                api_visibility="private",
            )
        for listen, handler in (
            (viewer.photo, on_photo),
            (viewer.example, on_example),
            (viewer.ask, on_question),
            (viewer.check, on_check),
            (viewer.whatif, on_what_if),
            (viewer.stop, on_stop),
            (viewer.enter, on_enter),
        ):
            listen(
                _guarded(handler, pages, by_key),
                page,
                viewer,
                # All of a page's events come here at once, and the newest ends the others; "always_last" loses one that
                # comes as a reply ends.
                trigger_mode="multiple",
                concurrency_limit=None,
                show_progress="hidden",
                api_visibility="private",
            )
        add_endpoints(engine, blocks)
        blocks.unload(on_leaving)
    return blocks


def example_photos() -> list[Path]:
    """The photos that ship with the package, by name."""
    folder = bundled_folder() / "examples"
    return sorted(path for path in folder.glob("*") if is_image(path.name))


def _guarded(
    handler: Callable[..., Iterator[View]],
    pages: MutableMapping[str | None, Page],
    by_key: MutableMapping[str, Page],
) -> Callable[..., Iterator[View]]:
    """A defect becomes a line in the log and a sentence on the page, which stays as it was."""

    def guarded(event: gr.EventData, page: Page, request: gr.Request) -> Iterator[View]:
        pages[request.session_hash] = by_key[page.key] = page
        try:
            yield from handler(event, page)
        except (Superseded, Cancelled):  # by a newer event; or else the page was lost for a moment
            message = "broken off" if event.turn == page.turn else None
            yield page.view(event.turn, message=message)
        except Exception:
            log.exception("the app failed to answer %s", handler.__name__)
            yield page.view(event.turn, message="defect")

    return guarded


def _replied(
    by_key: Mapping[str, Page], asked: Mapping[str, Any], find: Callable[[Page], View]
) -> View:
    """What a page asked without an event of its own; what goes wrong is a message."""
    page = by_key.get(asked["key"])
    if page is None:
        return {"message": "gone"}
    try:
        return find(page)
    except UserError as error:
        return {"message": sentence(str(error))}
    except Cancelled:
        return {"message": "broken off"}
    except Exception:
        log.exception("the app failed to look something up: %s", asked)
        return {"message": "defect"}


def _told(views: Iterator[View]) -> Iterator[View]:
    """Views of what runs for long; what goes wrong is a message in the last."""
    try:
        yield from views
    except UserError as error:
        yield {"message": sentence(str(error))}
    except Exception:
        log.exception("the app failed to compare on a folder")
        yield {"message": "defect"}


def _heads(engine: Engine) -> dict[str, Any]:
    """How many layers and heads look at the image, and which of them `alignment` names."""
    config = engine.captioner.model.config.decoder
    return {
        "layers": config.sublayers.count("c"),
        "heads": config.heads,
        "alignment": config.alignment_heads,
    }


def document_kinds(engine: Engine) -> list[str]:
    """How the names of documents end that can stand beside a photo; none where the model reads none."""
    return list(KINDS) if engine.captioner.reads_documents else []


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
