"""The app as a web server: its address, a proxy before it, and who may come in."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import matplotlib
from fastapi import FastAPI

from vlm.addresses import check_address, taken
from vlm.app.accounts import Accounts
from vlm.app.component import build
from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.errors import UserError
from vlm.trace import Tracer

MAX_UPLOAD = "100mb"
MAX_WAITING = (
    200  # requests that wait for the engine, each in a thread; further ones wait for these
)
MAX_PAGES = 500  # whose photos can be asked about; the one that was left longest is forgotten first
POLL_SECONDS = (
    0.05  # between two looks for work: what an event waits at most, on an app that nobody asks
)


def serve(
    captioner: Captioner,
    host: str = "127.0.0.1",
    port: int = 7860,
    root_path: str | None = None,
    auth_file: str | Path | None = None,
    others: Mapping[str, Captioner] | None = None,
    tracers: Mapping[str, Tracer] | None = None,
) -> None:
    """Serve the app until interrupted.

    `root_path` is where a reverse proxy shows the app, "/vlm" or "https://example.org/vlm"; None takes the environment
    variable GRADIO_ROOT_PATH, if it is set. With `auth_file` only those come in whom the file names; see
    `vlm.app.accounts`. `others` are models by name that the first may be compared with, and `tracers` write
    lines about each one's requests, about the first's by the name "". Raises UserError when the port is taken, or a
    path or file is wrong.
    """
    accounts = None if auth_file is None else Accounts.read(auth_file)
    check_address(host, port)
    with ExitStack() as running:
        tracers = tracers or {}
        engine = running.enter_context(Engine(captioner, tracers.get("")))
        engines = {
            name: running.enter_context(Engine(other, tracers.get(name)))
            for name, other in (others or {}).items()
        }
        running.enter_context(photo_folder())
        blocks = _calm(build(engine, engines))
        try:
            blocks.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                root_path=None if root_path is None else public_path(root_path),
                auth=None if accounts is None else accounts.admit,  # type: ignore[arg-type]  # it may be async
                share=False,
                max_file_size=MAX_UPLOAD,
                max_threads=MAX_WAITING,
                state_session_capacity=MAX_PAGES,
                theme=_theme(),
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError:
            raise taken(host, port) from None
        if threading.current_thread() is threading.main_thread():
            # systemd and containers stop a program by SIGTERM: end as by Ctrl+C, which deletes photos.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"Open {blocks.local_url} in a browser. Ctrl+C stops the app.", flush=True)
        blocks.block_thread()


def page_application(
    engine: Engine, root_path: str | None = None, accounts: Accounts | None = None
) -> FastAPI:
    """The app as an ASGI application, for a server that has more to serve; use it within `photo_folder`.

    Arguments are those of `serve`.
    """
    blocks = _calm(build(engine))
    # What launching takes as arguments, and mounting does not.
    blocks.max_threads = MAX_WAITING
    blocks._queue.max_thread_count = MAX_WAITING
    blocks.state_session_capacity = MAX_PAGES
    # Gradio looks at the paths of files, and for pages that were closed, only where it was launched.
    blocks.has_launched = True
    blocks.is_running = True
    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path="/",
        root_path=None if root_path is None else public_path(root_path),
        auth=None if accounts is None else accounts.admit,
        max_file_size=MAX_UPLOAD,
        theme=_theme(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
    )


def _calm(blocks: gr.Blocks) -> gr.Blocks:
    """Gradio looks for work a thousand times a second, which keeps an idle processor at 5 %.

    And as often for progress that is told by `gr.Progress`, which this app has not. At each event it asks for what
    draws plots; where nobody has chosen that, all of matplotlib is imported to find out.
    """
    matplotlib.use("agg")
    blocks._queue.sleep_when_free = POLL_SECONDS
    blocks._queue.progress_update_sleep_when_free = 3600.0
    return blocks


@contextmanager
def photo_folder() -> Iterator[None]:
    """Keep visitors' photos where no other user of the machine can read them, and delete them at the end."""
    name = "GRADIO_TEMP_DIR"
    parent = os.environ.get(name)
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="vlm-photos-", dir=parent, ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            del os.environ[name]
            if parent is not None:
                os.environ[name] = parent


def public_path(root_path: str) -> str:
    """A path with a slash before and none behind it, or a whole address. Raises UserError when it is neither."""
    if re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", root_path):
        return root_path.rstrip("/")
    if not re.fullmatch(r"[\w.~/-]*", root_path, re.ASCII):
        raise UserError(
            f"{root_path!r} is no path of a web address; give one such as /vlm or https://example.org/vlm"
        )
    path = root_path.strip("/")
    return f"/{path}" if path else ""


def _theme() -> gr.themes.Base:
    """Fonts of the system, because the default theme asks another host for them."""
    theme = gr.themes.Base(font=["Inter", "system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(body_background_fill="#fbfbfa", body_background_fill_dark="#121419")
