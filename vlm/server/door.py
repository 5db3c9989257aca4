"""The door to an endpoint: who comes in, how many, how much they bring, how long they stay, and that they may leave."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm.server.api_keys import ApiKeys
from vlm.server.measures import Measures
from vlm.server.refusals import Refusal
from vlm.server.settings import Settings

CLIENT_LEFT = 499  # nginx's status for it, for our own count: nobody reads it
_DRAIN_SECONDS = 5  # how long what a refused client still sends is read, so that it can read why


class Room:
    """How many requests a server works on at once, and how long one took of late."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self._seconds = 1.0  # a running mean

    def enter(self) -> None:
        """Raises Refusal with Retry-After when there is no room."""
        if self.taken >= self.size:
            wait = str(math.ceil(self._seconds))
            raise Refusal(
                f"{self.taken} requests are being worked on, as many as go here; come again in {wait} s",
                429,
                "server_busy",
                {"Retry-After": wait},
            )
        self.taken += 1

    def leave(self, seconds: float) -> None:
        self.taken -= 1
        self._seconds += 0.1 * (seconds - self._seconds)


class Door:
    """One endpoint behind a check of the key and, where it is `limited`, behind the limits of the settings.

    A limited endpoint gets its body whole. What it does is cancelled when the client leaves, or when its time is up
    before it has begun its reply; `scope["state"]["deadline"]` is the event loop's time by which it must end that.
    `scope["state"]["owner"]` is who asks: the key's name, or the client's address where there are no keys.
    """

    def __init__(
        self,
        app: ASGIApp,
        endpoint: str,
        settings: Settings,
        keys: ApiKeys | None,
        room: Room,
        measures: Measures,
        limited: bool = True,
    ) -> None:
        self.app = app
        self.endpoint = endpoint
        self.settings = settings
        self.keys = keys
        self.room = room
        self.measures = measures
        self.limited = limited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, more = 500, True

        async def received() -> Message:
            nonlocal more
            message = await receive()
            more = bool(message.get("more_body"))
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            scope.setdefault("state", {})["owner"] = self._owner(scope)
            if self.limited:
                await self._within_limits(scope, received, sent)
            else:
                await self.app(scope, received, sent)
        except Refusal as refusal:
            status = refusal.status
            if more:
                await _drain(receive)
            raise
        except ClientLeft:
            status = CLIENT_LEFT
        finally:
            self.measures.requests.labels(self.endpoint, status).inc()

    def _owner(self, scope: Scope) -> tuple[str, str]:
        if self.keys is None:
            return "address", (scope.get("client") or ("", 0))[0]
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        owner = self.keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if owner is None:
            raise Refusal(
                "this server wants a key that it knows, as Authorization: Bearer KEY",
                401,
                "invalid_api_key",
                {"WWW-Authenticate": "Bearer"},
            )
        return "key", owner

    async def _within_limits(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.room.enter()
        start = time.perf_counter()
        self.measures.running.inc()
        try:
            async with asyncio.timeout(self.settings.seconds) as clock:
                scope["state"]["deadline"] = clock.when()

                async def sent(message: Message) -> None:
                    clock.reschedule(None)  # a reply that has begun cannot become another
                    await send(message)

                body = await _read(scope, receive, self.settings.max_body)
                await _while_connected(receive, self.app(scope, _once(body), sent))
        except TimeoutError:
            raise too_long(self.settings.seconds) from None
        finally:
            seconds = time.perf_counter() - start
            self.room.leave(seconds)
            self.measures.running.dec()
            self.measures.seconds.labels(self.endpoint).observe(seconds)


def too_long(seconds: float) -> Refusal:
    return Refusal(
        f"this took longer than the {seconds:g} s that a request may take here", 504, "timeout"
    )


class ClientLeft(Exception):
    """The client closed the connection before its reply was complete."""


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """A request's body. Raises Refusal as soon as it is known to be too large."""
    too_large = Refusal(
        f"the request is too large: more than the {limit / 1e6:g} MB that are taken here; send a smaller image",
        413,
        "request_too_large",
    )
    if int(Headers(scope=scope).get("content-length", 0)) > limit:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)


async def _drain(receive: Receive) -> None:
    """Read and forget the rest of a body: a client that is still sending would not see the reply."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await receive()).get("more_body"):
                pass


def _once(body: bytes) -> Receive:
    """A body that was read already, as an application receives it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # the door looks after clients that leave
        raise AssertionError

    return receive


async def _while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Do some work, or cancel it as soon as the client leaves. Raises ClientLeft then."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
