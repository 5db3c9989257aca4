"""All endpoints as one ASGI application, with the app's page beside them where there is one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, request_response
from starlette.types import ASGIApp

from vlm.engine import Engine
from vlm.errors import UserError
from vlm.server.api_keys import ApiKeys
from vlm.server.chat import Chat
from vlm.server.door import Door, Room
from vlm.server.measures import Measures
from vlm.server.media import Media
from vlm.server.refusals import Refusal, of_defect, of_routing, of_user
from vlm.server.settings import MCP_PATH, Settings


def application(
    engine: Engine,
    settings: Settings,
    keys: ApiKeys | None = None,
    page: Starlette | None = None,
    mcp: Starlette | None = None,
) -> Starlette:
    """The endpoints of an engine, `mcp` at its own path, and `page` for every other path.

    With `keys`, none but the two of health answers without one of them.
    """
    measures = Measures(engine)
    room = Room(settings.max_requests)
    media = Media.of(settings)
    began = int(time.time())
    model = {"id": settings.model, "object": "model", "created": began, "owned_by": "vlm"}

    def door(app: ASGIApp, endpoint: str, limited: bool = True) -> ASGIApp:
        return Door(app, endpoint, settings, keys, room, measures, limited)

    async def healthz(request: Request) -> Response:
        """Whether the process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        """Whether it can do what it is asked."""
        if not engine.alive:
            return PlainTextResponse("the model does not run\n", 503)
        return PlainTextResponse("ready\n")

    async def metrics(request: Request) -> Response:
        return Response(measures.text(), media_type=CONTENT_TYPE_LATEST)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    async def one_model(request: Request) -> Response:
        if (name := request.path_params["name"]) != settings.model:
            raise Refusal(
                f"there is no model {name!r} here; there is {settings.model}",
                404,
                "model_not_found",
            )
        return JSONResponse(model)

    async def nothing(request: Request) -> Response:
        raise HTTPException(404)

    chat = request_response(Chat(engine, settings, media, measures).complete)
    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", door(request_response(metrics), "metrics", False), methods=["GET"]),
        Route("/v1/models", door(request_response(models), "models", False), methods=["GET"]),
        Route(
            "/v1/models/{name:path}",
            door(request_response(one_model), "models", False),
            methods=["GET"],
        ),
        Route("/v1/chat/completions", door(chat, "chat"), methods=["POST"]),
        Route("/v1/{rest:path}", nothing, methods=["GET", "POST", "PUT", "DELETE"]),
    ]
    if mcp is not None:  # without sessions there is nothing to GET or to DELETE
        routes.append(Route(MCP_PATH, door(mcp, "mcp"), methods=["POST"]))
    if page is not None:
        routes.append(Mount("/", page))
    app = Starlette(
        routes=routes,
        exception_handlers={
            UserError: of_user,
            HTTPException: of_routing,
            Exception: of_defect,
        },
        lifespan=lambda _: _running([part for part in (page, mcp) if part is not None]),
    )
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def _running(parts: Sequence[Starlette]) -> AsyncIterator[None]:
    """What applications do at their start and end, which those that are mounted do not by themselves."""
    async with AsyncExitStack() as stack:
        for part in parts:
            await stack.enter_async_context(part.router.lifespan_context(part))
        yield
