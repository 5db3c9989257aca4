"""The grounding card of a model: the tables of what was measured of its maps, each put in its place as it is ready."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from ...data.atomic import replace_file
from ...data.records import DataError
from .grounding_tables import Table

BEGIN = "# Grounding card"


def put(file: Path, model: str, table: Table) -> None:
    """Write a table into the card of a model, in place of one with its title or behind the others, which stay.

    Raises DataError as `check_card` does, and where the card cannot be written.
    """
    heading = f"{BEGIN}: {Path(model).name}"
    introduction = (
        "Where the model's maps lie, and what they are worth, as `vlm faithfulness` measured it; how it does so is in "
        "docs/explanations.md. A figure in bold, or a baseline that is beaten, is more than noise."
    )
    parts = re.split(r"^(?=\*\*[^*]+\*\*$)", check_card(file), flags=re.MULTILINE)[1:]
    sections = {part.partition("\n")[0]: part.strip() for part in parts}
    sections[f"**{table.title}**"] = f"{table.markdown()}\n\n{_measured()}"
    text = "\n\n".join([heading, introduction, *sections.values()]) + "\n"
    try:
        replace_file(file, lambda opened: opened.write(text.encode()))
    except OSError as error:
        raise DataError(f"the card {file} cannot be written: {error.strerror}") from None


def check_card(file: Path) -> str:
    """What the card holds, which may not be there yet. Raises DataError where a table cannot be put into it."""
    if not file.parent.is_dir():
        raise DataError(f"--card: there is no folder {file.parent}")
    try:
        there = file.read_text(encoding="utf-8") if file.exists() else BEGIN
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--card: {file} cannot be read: {error}") from None
    if not there.startswith(BEGIN):
        raise DataError(f"--card: {file} is no grounding card; name another file, which may be new")
    return there


def _measured() -> str:
    """When and on what, today (UTC) and here."""
    cores = os.cpu_count()
    return f"Measured on {datetime.now(UTC).date().isoformat()}, {processor()}, {cores} cores."


def processor() -> str:
    """The processor's name, as Linux tells it, or as well as Python knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
