"""`vlm app`."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm.cli.arguments import Int8, Model, OpenVino, load
from vlm.cli.failures import fail


def serve(
    model: Model = None,
    openvino: OpenVino = False,
    int8: Int8 = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
) -> None:
    """Caption photos and answer questions about them in the browser."""
    from vlm.app.launch import serve

    captioner = load(model, openvino, int8)
    try:
        serve(captioner, host, port)
    except OSError:
        fail(f"cannot listen on {host}:{port}; is it taken? Choose another with --port")
