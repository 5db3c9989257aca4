"""Serve the app from a checkout: `python app.py` is `vlm app`."""

from __future__ import annotations

from functools import partial

import typer

from vlm.cli.failures import clear_errors, run_program
from vlm.cli.serve import app

main = clear_errors()(app)

if __name__ == "__main__":
    run_program(partial(typer.run, main))
