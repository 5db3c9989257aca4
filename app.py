"""Serve the app from a checkout: `python app.py` is `vlm app`."""

from __future__ import annotations

import typer

from vlm.cli.failures import clear_errors
from vlm.cli.serve import serve

main = clear_errors()(serve)

if __name__ == "__main__":
    typer.run(main)
