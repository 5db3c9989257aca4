"""What was measured, as a table, a plot and JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import vlm
from benchmarks.roofline import Machine, cpu_name
from benchmarks.timing import Row, Spread

PACKAGES = ("torch", "timm", "openvino", "transformers", "open_clip_torch")


def as_record(rows: Sequence[Row], machine: Machine, left_out: Mapping[str, str]) -> dict[str, Any]:
    """JSON-ready; `left_out` says why parts are not in it."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "flops": machine.flops,
            "bandwidth": machine.bandwidth,
        },
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in PACKAGES}
        | {"vlm": vlm.__version__},
        "rows": [row.as_record() for row in rows],
        "left_out": dict(left_out),
    }


def show(record: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Print the table."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    table = Table(
        title=f"{record['date'][:10]}, {machine['processor']}, {machine['threads']} threads",
        caption=f"Peak {machine['flops'] / 1e9:.0f} GFLOP/s and {machine['bandwidth'] / 1e9:.1f} GB/s in float32. "
        f"Medians; the ratio's lowest and highest in brackets. {versions}.",
    )
    table.add_column("", no_wrap=True)
    for title in ("ours", "peer", "ratio", "limit"):
        table.add_column(title, justify="right")
    for title in ("bar", "met", "same words"):
        table.add_column(title)
    part = rows[0].part if rows else ""
    for row in rows:
        if row.part != part:
            table.add_section()
            part = row.part
        table.add_row(*_cells(row))
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    for row in (row for row in rows if row.note):
        console.print(f"{row.part}: {row.name}: {row.note}", markup=False, highlight=False)
    for name, reason in record["left_out"].items():
        console.print(f"{name} is not measured: {reason}", markup=False, highlight=False)


def _cells(row: Row) -> list[str]:
    ratio = row.ratio
    bars = row.bars()
    limit = ""
    if row.limit is not None:
        limit = f"{_number(row.limit)} ({100 * row.limit / row.ours.median:.0f} %)"
    return [
        f"{row.part}: {row.name}",
        f"{_number(row.ours.median)} {row.unit}",
        "" if row.peer is None else f"{_number(row.peer.median)} {row.unit}",
        "" if ratio is None else f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})",
        limit,
        ", ".join(text for text, _ in bars),
        ", ".join("yes" if met else "no" for _, met in bars),
        "" if row.same_words is None else "yes" if row.same_words else "no",
    ]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw each ratio with its range and bar, and each time as a multiple of the machine's limit."""
    ratios = [row for row in rows if row.ratio is not None]
    limited = [row for row in rows if row.limit is not None]
    height = 1.5 + 0.35 * max(len(ratios), len(limited))
    figure = Figure(figsize=(14, height), layout="constrained")
    left, right = figure.subplots(1, 2)

    for y, row in enumerate(ratios):
        assert row.ratio is not None
        left.barh(y, row.ratio.median, xerr=_reach(row.ratio), color="tab:blue", ecolor="0.3")
        if row.least_ratio is not None:
            left.plot([row.least_ratio] * 2, [y - 0.4, y + 0.4], color="tab:red")
    left.plot([], [], color="tab:red", label="bar")
    left.set(title="Times as fast as the peer", xlabel="ratio")

    for y, row in enumerate(limited):
        assert row.limit is not None
        right.barh(y - 0.2, row.ours.median / row.limit, height=0.4, color="tab:blue")
        if row.peer is not None:
            right.barh(y + 0.2, row.peer.median / row.limit, height=0.4, color="0.7")
    right.barh([], [], color="tab:blue", label="ours")
    right.barh([], [], color="0.7", label="peer")
    right.set(title="Time by the machine's limit", xlabel="limits")

    for axes, shown in ((left, ratios), (right, limited)):
        axes.set_yticks(range(len(shown)), [f"{row.part}: {row.name}" for row in shown])
        axes.invert_yaxis()
        axes.axvline(1, color="0.5", linewidth=0.8)
        axes.legend()
    figure.savefig(path, dpi=120)


def _reach(spread: Spread) -> list[list[float]]:
    return [[spread.median - spread.low], [spread.high - spread.median]]
