"""What a user can put right, and how to install what is missing."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input, and not a defect of ours: the message is one sentence that says what was wrong and what to do.

    Every command, endpoint and page shows it as it is; anything else keeps its traceback.
    """


def how_to_install(extra: str) -> str:
    """What to type for the packages of an extra. `vlm` on the package index is another project."""
    return f"""run: pip install -e ".[{extra}]" in a checkout, or pip install "FILE.whl[{extra}]" with its wheel"""
