"""`vlm app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device, Int8, Model, OpenVino, load
from vlm.cli.failures import fail


def serve(
    model: Model = None,
    device: Device = "auto",
    openvino: OpenVino = False,
    int8: Int8 = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
    root_path: Annotated[
        str | None,
        typer.Option(
            help="Where a reverse proxy shows the app: /vlm, or https://example.org/vlm.",
            show_default=False,
        ),
    ] = None,
    auth_file: Annotated[
        Path | None,
        typer.Option(help="Let in only those whom this file names.", show_default=False),
    ] = None,
    add_user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Ask for a password, write NAME and its hash into --auth-file, and serve nothing.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Caption photos and answer questions about them in the browser."""
    if add_user is not None:
        from vlm.app.accounts import add_account

        if auth_file is None:
            fail("--add-user needs to know where: --auth-file FILE")
        password = typer.prompt(
            f"Password of {add_user}", hide_input=True, confirmation_prompt=True, err=True
        )
        add_account(auth_file, add_user, password)
        typer.echo(f"{auth_file} lets {add_user} in, from the next start of the app.")
        return
    from vlm.app.launch import serve

    serve(load(model, device, openvino, int8), host, port, root_path, auth_file)
