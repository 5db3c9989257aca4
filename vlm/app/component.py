"""The page as one Gradio component: its template, its events, and what they call.

The page draws the heatmaps itself from the small maps it is sent, so choosing a word asks nothing of the server.
"""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from weakref import WeakValueDictionary

import gradio as gr
import matplotlib
from PIL import Image

from vlm.app.endpoints import add_endpoints, owner_of
from vlm.app.page import Page, Superseded, View, answer, describe
from vlm.engine import Cancelled, Engine
from vlm.explain.overlay import LEAST_PEAK
from vlm.explain.paint import COLOURS
from vlm.images import is_image
from vlm.weights.hub import bundled_folder

THUMBNAIL_SIZE = 176

log = logging.getLogger(__name__)


def build(engine: Engine) -> gr.Blocks:
    """The app of one engine. Launch it with `vlm.app.launch.serve`, or like any Gradio app."""
    examples = example_photos()
    pages: WeakValueDictionary[str | None, Page] = WeakValueDictionary()  # by session

    def on_photo(event: gr.EventData, page: Page) -> Iterator[View]:
        # Gradio lets no path through that was not uploaded.
        yield from describe(engine, page, Path(event.path), event.name, event.turn)

    def on_example(event: gr.EventData, page: Page) -> Iterator[View]:
        path = examples[event.index]
        yield from describe(engine, page, path, path.name, event.turn)

    def on_question(event: gr.EventData, page: Page) -> Iterator[View]:
        yield from answer(engine, page, event.question, event.turn)

    def on_leaving(request: gr.Request) -> None:
        if page := pages.get(request.session_hash):
            engine.cancel(page)
        engine.cancel(owner_of(request))

    # Files of photos are deleted after a day.
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
            leastPeak=LEAST_PEAK,
        )
        for listen, handler in (
            (viewer.photo, on_photo),
            (viewer.example, on_example),
            (viewer.ask, on_question),
        ):
            listen(
                _guarded(handler, pages),
                page,
                viewer,
                # All of a page's events come here at once, and the newest ends the others; "always_last" loses one that
                # comes as a reply ends.
                trigger_mode="multiple",
                concurrency_limit=None,
                show_progress="hidden",
                api_visibility="private",
            )
        add_endpoints(engine)
        blocks.unload(on_leaving)
    return blocks


def example_photos() -> list[Path]:
    """The photos that ship with the package, by name."""
    folder = bundled_folder() / "examples"
    return sorted(path for path in folder.glob("*") if is_image(path.name))


def _guarded(
    handler: Callable[..., Iterator[View]], pages: MutableMapping[str | None, Page]
) -> Callable[..., Iterator[View]]:
    """A defect becomes a line in the log and a sentence on the page, which stays as it was."""

    def guarded(event: gr.EventData, page: Page, request: gr.Request) -> Iterator[View]:
        pages[request.session_hash] = page
        try:
            yield from handler(event, page)
        except (Superseded, Cancelled):  # by a newer event; or else the page was lost for a moment
            message = "The connection broke off; ask again." if event.turn == page.turn else None
            yield page.view(event.turn, message=message)
        except Exception:
            log.exception("the app failed to answer %s", handler.__name__)
            message = "Something went wrong; the program's log says what."
            yield page.view(event.turn, message=message)

    return guarded


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
