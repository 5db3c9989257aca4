"""What programs call by name with `gradio_client`: /caption, /ask and /explain."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from gradio_client.utils import is_http_url_like

from vlm.encoded_image import EncodedImage
from vlm.engine import Engine
from vlm.errors import UserError

MOST_CANDIDATES = 16

Move = Callable[[str | Path | None], Coroutine[Any, Any, str | None]]


def add_endpoints(engine: Engine, blocks: gr.Blocks) -> None:
    """Give the app that is being built its named endpoints, and have it fetch nothing from other hosts."""

    def look(image: gr.FileData, owner: Hashable) -> EncodedImage:
        path = uploaded(image)
        return engine.call(owner, lambda: engine.captioner.encode(path)).result()

    def caption(image: gr.FileData, request: gr.Request, candidates: int = 1) -> dict[str, Any]:
        """Caption an image; of several `candidates` the best comes first."""
        owner = owner_of(request)
        with _told(image):
            if not 1 <= candidates <= MOST_CANDIDATES:
                raise UserError(f"candidates must be from 1 to {MOST_CANDIDATES}, not {candidates}")
            answer = engine.caption(owner, look(image, owner), candidates=candidates).result()
            return engine.call(owner, answer.to_dict).result()

    def ask(image: gr.FileData, question: str, request: gr.Request) -> dict[str, Any]:
        """Answer a question about an image."""
        owner = owner_of(request)
        with _told(image):
            answer = engine.ask(owner, look(image, owner), question).result()
            return engine.call(owner, answer.to_dict).result()

    def explain(
        image: gr.FileData, request: gr.Request, question: str = "", method: str = ""
    ) -> list[dict[str, Any]]:
        """Where the model looked for each word of a caption, or of a question and its answer: a map each."""
        owner = owner_of(request)
        with _told(image):
            seen = look(image, owner)
            job = engine.ask(owner, seen, question) if question else engine.caption(owner, seen)
            answer = job.result()
            maps = engine.call(owner, lambda: answer.maps(method=method or None)).result()
            return [word_map.to_dict() for word_map in maps]

    functions: tuple[Callable[..., Any], ...] = (caption, ask, explain)
    for function in functions:
        gr.api(function, api_name=function.__name__, concurrency_limit=None)
    for block in blocks.blocks.values():
        block.async_move_resource_to_block_cache = _of_this_machine(  # type: ignore[method-assign, assignment]
            block.async_move_resource_to_block_cache
        )


def _of_this_machine(move: Move) -> Move:
    """Gradio's way of taking up a file that a client names, but for addresses on the web, which it would download."""

    async def taken(path: str | Path | None) -> str | None:
        if path is not None and is_http_url_like(str(path)):
            raise gr.Error("the app fetches no files; send the file itself", print_exception=False)
        return await move(path)

    return taken


def uploaded(image: Any) -> Path:
    """The file that a client has uploaded. Raises UserError for what is none.

    Gradio looks only at paths that say by themselves that they are files, so any other of the server's would pass.
    """
    named = image.get("path") if isinstance(image, Mapping) else None
    if isinstance(named, str):
        path, folder = Path(os.path.realpath(named)), os.path.realpath(get_upload_folder())
        if path.is_relative_to(folder) and path.is_file():
            return path
    raise UserError(
        "image must be a file that was uploaded, as handle_file(PATH) of gradio_client does"
    )


def owner_of(request: gr.Request) -> Hashable:
    """Who asks the engine: one session of a client."""
    return "client", request.session_hash


@contextmanager
def _told(image: gr.FileData) -> Iterator[None]:
    """What a user can put right is told to the client in one sentence, by the file's own name."""
    try:
        yield
    except UserError as error:
        said = str(error)
        with suppress(UserError):
            path = uploaded(image)
            said = said.replace(str(path), dict(image).get("orig_name") or path.name)
        raise gr.Error(said, print_exception=False) from None
