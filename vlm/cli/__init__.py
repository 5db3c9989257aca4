"""The command line."""

from vlm.cli.main import app, run

__all__ = ["app", "run"]
