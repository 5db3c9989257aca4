"""The command line: `vlm caption`, `vlm ask`, `vlm explain`, `vlm app` and more.

Results go to stdout and everything else to stderr; `vlm.cli.failures` says what the exit codes mean.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from vlm import __version__
from vlm.cli import training
from vlm.cli.ask import ask, explain
from vlm.cli.ask_all import ask_all
from vlm.cli.attend import attend
from vlm.cli.caption import caption
from vlm.cli.caption_dataset import caption_dataset
from vlm.cli.failures import clear_errors, fail, run_program
from vlm.cli.index_documents import app as index_app
from vlm.cli.keep_pairs import app as pairs_app
from vlm.cli.mcp import mcp
from vlm.cli.serve import app as app_page
from vlm.cli.serve import serve
from vlm.cli.signals import signals
from vlm.cli.weights import convert, export, models

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Captions and answers that show where the model looked, word by word.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vlm {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    if sys.stdout is None:
        fail("the output is closed, so there is nowhere to write results to")
    # A file name must not stop a run: what is not UTF-8 goes out as the bytes that came in, and what the output's
    # encoding lacks as its number.
    if isinstance(sys.stdout, io.TextIOWrapper):
        whole = sys.stdout.encoding.lower() in ("utf-8", "utf8")
        sys.stdout.reconfigure(errors="surrogateescape" if whole else "backslashreplace")


COMMANDS: dict[str, Callable[..., None]] = {
    "caption": caption,
    "ask": ask,
    "ask-all": ask_all,
    "explain": explain,
    "attend": attend,
    "app": app_page,
    "serve": serve,
    "mcp": mcp,
    "models": models,
    "convert": convert,
    "export": export,
    "caption-dataset": caption_dataset,
    "signals": signals,
}
for name, command in COMMANDS.items():
    extra = "attend" if command is attend else None
    app.command(name)(clear_errors(extra)(command))
app.add_typer(index_app, name="index")
app.add_typer(pairs_app, name="pairs")
for command in (
    training.evaluate,
    training.table,
    training.calibrate,
    training.faithfulness,
    training.documents,
    training.train,
    training.prepare,
    training.lesson,
):
    app.command(context_settings=training.PASSED_ON)(command)
app.command("try", context_settings=training.PASSED_ON)(training.try_settings)


def run() -> None:
    """The command `vlm`."""
    run_program(partial(app, prog_name="vlm"))
