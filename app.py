"""Serve the app from a checkout: `python app.py` is `vlm app`."""

from __future__ import annotations

import typer

from vlm.cli.failures import clear_errors
from vlm.cli.serve import app

main = clear_errors()(app)

if __name__ == "__main__":
    typer.run(main)
