"""The report on a trace as one HTML page that needs no network."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from vlm.trace_report import POINTS, Signal, Tail, TraceReport


def trace_page(report: TraceReport, title: str) -> str:
    """The page."""
    values = {
        "title": html.escape(title),
        "lines": html.escape(lines_said(report)),
        "look_at": "".join(f"<li>{html.escape(said)}</li>" for said in report.look_at),
        "counts": "".join(
            _row([kind, ", ".join(f"{name} {n:,}" for name, n in names.items())])
            for kind, names in report.counts.items()
        ),
        "tail_head": _row(tail_head(report.tails), "th"),
        "tails": "".join(_row(tail_row(tail)) for tail in report.tails),
        "signals": "".join(_signal(signal) for signal in report.signals)
        or "<p>Without a trace to compare with there is no drift: give <code>--against</code>.</p>",
    }
    page = Path(__file__).with_suffix(".html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: values[mark[1]], page)


def lines_said(report: TraceReport) -> str:
    """How many lines there are, now and before, and how many of them are damaged."""
    said = f"{report.lines:,} requests, {report.damaged:,} damaged lines"
    if report.lines_before is not None:
        said += f"; before {report.lines_before:,}, {report.damaged_before:,} damaged"
    return said


def tail_head(tails: Sequence[Tail]) -> list[str]:
    """The columns of the table of stages."""
    now = [f"p{point}" for point in POINTS]
    compared = any(tail.before for tail in tails)
    return ["ms", "n", *now, *(f"{name} before" for name in now if compared)]


def tail_row(tail: Tail) -> list[str]:
    """A row of the table of stages."""
    times = [*tail.now, *(tail.before or ())]
    return [tail.stage.replace("_", " "), f"{tail.n:,}", *(f"{ms:,.1f}" for ms in times)]


def _row(cells: Sequence[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _signal(signal: Signal) -> str:
    """A signal with the shares of its bins, before above now."""
    drift = signal.drift
    whose = f" of {signal.task}s" if signal.task else ""
    title = html.escape(f"{signal.name}{whose}: {drift.level}, index {drift.index:.3f}")
    bars = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{_bar(was, 'was')}{_bar(now, 'now')}</td></tr>"
        for name, was, now in zip(drift.bins, drift.before, drift.now)
    )
    shown = " open" if drift.level in ("some", "much") else ""
    return f'<details class="{drift.level}"{shown}><summary>{title}</summary><table>{bars}</table></details>'


def _bar(share: float, kind: str) -> str:
    return f'<div class="{kind}"><i style="width:{60 * share:.1f}%"></i> {share:.0%}</div>'
