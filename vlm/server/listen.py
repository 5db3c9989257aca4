"""An ASGI application as a process that serves until it is stopped."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

FINISH_SECONDS = 5  # for replies that are under way when the server is stopped


class _Announced(uvicorn.Server):
    """Says that it serves once it does."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._announcement, flush=True)


def listen(app: ASGIApp, host: str, port: int, announcement: str) -> None:
    """Serve until interrupted or terminated; replies that are under way are finished, for some seconds."""
    config = uvicorn.Config(
        app,
        host,
        port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )
    if threading.current_thread() is threading.main_thread():
        # systemd and containers stop a program by SIGTERM, which uvicorn raises once more when it is done.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        _Announced(config, announcement).run()
