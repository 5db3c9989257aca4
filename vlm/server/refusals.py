"""What a program is told when its request cannot be met: an HTTP status, and OpenAI's form of an error."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from vlm.errors import UserError

log = logging.getLogger(__name__)

_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(UserError):
    """A request that is refused with an HTTP `status`; the message says why. `code` is for programs to read."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


def error_body(error: UserError) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    status, code = (error.status, error.code) if isinstance(error, Refusal) else (400, None)
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": None, "code": code}}


def of_user(request: Request, error: Exception) -> JSONResponse:
    """The response to a UserError."""
    assert isinstance(error, UserError)
    status, headers = (error.status, error.headers) if isinstance(error, Refusal) else (400, None)
    return JSONResponse(error_body(error), status, headers)


def of_routing(request: Request, error: Exception) -> JSONResponse:
    """The response where there is no such path, or it takes another method."""
    assert isinstance(error, HTTPException)
    said = {
        404: f"there is no {request.url.path} here; see /v1/models and /v1/chat/completions",
        405: f"{request.url.path} does not take {request.method}",
    }.get(error.status_code, error.detail)
    return of_user(request, Refusal(said, error.status_code, headers=error.headers))


def of_defect(request: Request, error: Exception) -> JSONResponse:
    """The response to a defect of ours; the log has its traceback."""
    return of_user(request, defect())


def defect() -> Refusal:
    return Refusal("something went wrong here; the server's log says what", 500)
