"""The table of a model card: figures as lines of Markdown, put in place of those that were measured before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ..data.atomic import replace_file
from ..data.records import DataError
from .figures import ROWS, Figure

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
HEAD = ["| row | data | split | figure | points (95 %) | measured |", "|---|---|---|---|---|---|"]


def lines(figures: Sequence[Figure]) -> list[str]:
    """A table of figures, with today's date (UTC)."""
    today = datetime.now(UTC).date().isoformat()
    rows = [(f.row, f.data, f.split, f.name, f.points, today) for f in figures]
    return [*HEAD, *("| " + " | ".join(cells) + " |" for cells in rows)]


def fill(card: Path, figures: Sequence[Figure]) -> None:
    """Put figures into a card, between the lines `BEGIN` and `END`; rows that are not among them stay as they are.

    Raises DataError where the file has no such lines.
    """
    text = card.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    there, end, behind = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{card} has no lines {BEGIN} and {END} to put a table between")
    measured = {figure.row for figure in figures}
    kept = [line for line in there.split("\n") if _row(line) in ROWS.keys() - measured]
    _, _, *new = lines(figures)
    ordered = sorted([*kept, *new], key=lambda line: list(ROWS).index(_row(line)))
    table = "\n".join([BEGIN, "", *HEAD, *ordered, "", END])
    filled = (before + table + behind).encode()
    replace_file(card, lambda file: file.write(filled))


def _row(line: str) -> str:
    """The name of a line's row; empty where it has none."""
    return line.split("|")[1].strip() if line.startswith("|") else ""
