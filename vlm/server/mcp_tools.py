"""Tools for agents by the Model Context Protocol: caption, ask and explain."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from pydantic import Field
from starlette.applications import Starlette

from vlm import __version__
from vlm.answers import Answer
from vlm.encoded_image import EncodedImage
from vlm.engine import Engine
from vlm.errors import UserError
from vlm.explain.maps import WordMap
from vlm.explain.overlay import sheet
from vlm.server.media import Media
from vlm.server.settings import MCP_PATH, Settings
from vlm.server.turns import done, encoded, in_turn

SHEET_SIDE = 320  # pixels of each word's picture

Image = Annotated[
    str,
    Field(
        description="A data URL, an https address, or the path of a file; what the server allows."
    ),
]
Choices = Annotated[int, Field(ge=1, le=16, description="How many texts, best first.")]
# Those that need neither gradients nor an encoding for each patch.
Method = Literal["logit", "attention", "value", "occlusion", "contrast", "context"]


class Said(TypedDict):
    """A caption or an answer: its text, how sure the model is of it, and others that it considered."""

    text: str
    confidence: float
    verdict: str | None
    alternatives: list[dict[str, Any]]


def tools(engine: Engine, media: Media, max_pixels: int) -> MCPServer:
    """A server of an engine's tools; images come from `media`, of at most `max_pixels`."""
    server = MCPServer(
        "vlm",
        instructions=(
            "Captions images, answers short questions about them, and shows where the model looked for each word. "
            "The verdict says whether to trust a text: sure, unsure or guess."
        ),
        version=__version__,
        log_level="WARNING",
    )
    looks_only = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

    async def look(context: Context[Any, Any], image: str) -> EncodedImage:
        data = await media.read(image)
        return await encoded(engine, _owner(context), data, max_pixels)

    @server.tool(annotations=looks_only)
    async def caption(context: Context[Any, Any], image: Image, candidates: Choices = 1) -> Said:
        """Describe an image in one sentence."""
        with _told():
            seen = await look(context, image)
            job = engine.caption(_owner(context), seen, candidates=candidates)
            return _said(await done(job))

    @server.tool(annotations=looks_only)
    async def ask(context: Context[Any, Any], image: Image, question: str) -> Said:
        """Answer a question about an image in a few words."""
        with _told():
            engine.captioner.prompt(question)
            seen = await look(context, image)
            return _said(await done(engine.ask(_owner(context), seen, question)))

    @server.tool(annotations=looks_only)
    async def explain(
        context: Context[Any, Any],
        image: Image,
        question: str | None = None,
        method: Method | None = None,
    ) -> CallToolResult:
        """Show where the model looked for each word of a caption, or of the answer to a question.

        Gives the words, each with its probability, how much likelier the image made it (in nats) and the place that it
        drew on most, as shares of the image's width and height from its upper left; and a picture with a heatmap for
        each word.
        """
        with _told():
            engine.captioner.prompt(question)
            owner = _owner(context)
            seen = await look(context, image)
            asked = (
                engine.caption(owner, seen)
                if question is None
                else engine.ask(owner, seen, question)
            )
            answer = await done(asked)
            return await in_turn(engine, owner, lambda: _explained(answer, method))

    return server


def mcp_application(
    engine: Engine, settings: Settings, folders: Sequence[Path], host: str, with_keys: bool
) -> Starlette:
    """The tools over HTTP, one request each, for `vlm.server.web.application`.

    A server on this machine's own address refuses requests that name another, which pages of other sites can send by
    way of a name of theirs; they know no key, so that is not needed where there are keys.
    """
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return tools(engine, Media.of(settings, folders), settings.max_pixels).streamable_http_app(
        streamable_http_path=MCP_PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=settings.max_body,
        transport_security=security if with_keys else None,
        host=host,
    )


@contextmanager
def _told() -> Iterator[None]:
    """What a user can put right is told to the agent in its own words; a defect only to the log."""
    try:
        yield
    except UserError as error:
        raise ToolError(str(error)) from None


def _owner(context: Context[Any, Any]) -> Hashable:
    """Who asks: whom the door of an HTTP server let in, or the one client of a pipe."""
    request = context.request_context.request
    return "pipe" if request is None else request.state.owner


def _said(answer: Answer) -> Said:
    others = [{"text": o.text, "confidence": o.confidence} for o in answer.alternatives]
    return Said(
        text=answer.text,
        confidence=answer.confidence,
        verdict=answer.verdict,
        alternatives=others,
    )


def _explained(answer: Answer, method: str | None) -> CallToolResult:
    assert answer.image
    maps = answer.maps(method=method)
    own = [word_map for word_map in maps if word_map.role != "question"]
    image_effect = answer.image_effect
    words = [
        {
            "text": word.text,
            "logprob": word.logprob,
            "image_effect": effect,
            "peak": _peak(answer.image, word_map),
            "mass": word_map.mass,
        }
        for word, effect, word_map in zip(answer.words, image_effect.words, own, strict=True)
    ]
    said = {**_said(answer), "question": answer.question, "method": maps[0].method, "words": words}
    image = answer.image.shrunk(SHEET_SIDE)
    buffer = io.BytesIO()
    drawn = sheet(image.picture, image.frame, maps, alone=image_effect.alone(maps))
    drawn.save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    return CallToolResult(
        content=[
            TextContent(type="text", text=json.dumps(said)),
            ImageContent(type="image", data=picture, mime_type="image/png"),
        ],
        structured_content=said,
    )


def _peak(image: EncodedImage, word_map: WordMap) -> list[float]:
    """The centre of the patch that a word drew on most, as shares of the image's width and height."""
    height, width = word_map.grid
    row, column = divmod(int(word_map.weights.argmax()), width)
    frame = image.frame
    left, top, right, bottom = frame.box
    across = (left + (right - left) * (column + 0.5) / width) / frame.width
    down = (top + (bottom - top) * (row + 0.5) / height) / frame.height
    return [round(across, 3), round(down, 3)]
