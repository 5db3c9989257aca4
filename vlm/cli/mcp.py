"""`vlm mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device, InPrecision, Model, OpenVino, load
from vlm.cli.failures import clear_errors
from vlm.options import Precision

AllowFolder = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="A folder whose files MCP's tools may read by their path; several may be given.",
        show_default=False,
        exists=True,
        file_okay=False,
    ),
]
AllowMediaDomains = Annotated[
    str,
    typer.Option(
        metavar="DOMAINS",
        help="Hosts that images are fetched from, with commas between; *.example.org is all below it.",
        show_default="none",
    ),
]


def mcp(
    model: Model = None,
    device: Device = "auto",
    openvino: OpenVino = False,
    precision: InPrecision = Precision.float32,
    allow_folder: AllowFolder = None,
    allow_media_domains: AllowMediaDomains = "",
) -> None:
    """Serve an agent on this machine by the Model Context Protocol, over standard input and output.

    Its tools are caption, ask and explain. `vlm serve --mcp` serves the same over HTTP.
    """
    with clear_errors("mcp"):
        from vlm.server.mcp_tools import tools
    from vlm.engine import Engine
    from vlm.server.media import Media
    from vlm.server.settings import Settings

    settings = Settings("vlm", media_domains=domains(allow_media_domains))
    with Engine(load(model, device, openvino, precision)) as engine:
        tools(engine, Media.of(settings, allow_folder or ()), settings.max_pixels).run("stdio")


def domains(text: str) -> tuple[str, ...]:
    """Hosts with commas between."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
