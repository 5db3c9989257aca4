"""Serve the app: `python app.py`, then open http://127.0.0.1:7860."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer


def main(
    model: Annotated[
        str | None,
        typer.Option(help="A bundled name, a folder or a hub id; by default the bundled model."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
) -> None:
    """Caption photos and answer questions about them in the browser."""
    from vlm.captioner import load
    from vlm.ui import serve
    from vlm.weights.store import CheckpointError

    try:
        captioner = load(model)
    except CheckpointError as error:
        _fail(str(error))
    try:
        serve(captioner, host, port)
    except OSError:
        _fail(f"cannot listen on {host}:{port}; is it taken? Choose another with --port")


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
