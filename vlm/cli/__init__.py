"""The command line."""

from vlm.cli.main import app

__all__ = ["app"]
