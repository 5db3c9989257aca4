"""Serve the app: `python app.py`, then open http://127.0.0.1:7860."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from vlm.cli.arguments import Int8, Model, OpenVino


def main(
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
    from vlm.captioner import load
    from vlm.runtimes.openvino import BackendError
    from vlm.weights.store import CheckpointError

    try:
        captioner = load(model, openvino=openvino, int8=int8)
    except (CheckpointError, BackendError) as error:
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
