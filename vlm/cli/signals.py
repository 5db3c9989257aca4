"""`vlm signals`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm.cli.failures import fail

if TYPE_CHECKING:
    from rich.table import Table

    from vlm.trace_report import TraceReport


def signals(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="What --trace has written.")],
    against: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="An earlier trace, to tell what has drifted since."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as a page, too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report on a trace: counts, the slow tail of each stage, drift, and which requests to look at."""
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        fail(f"--html writes a page, whose name ends in .html, not {html.name!r}")
    from vlm.trace_lines import read_trace
    from vlm.trace_report import report_on

    report = report_on(read_trace(trace), None if against is None else read_trace(against))
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        _show(report)
    if html is not None:
        from vlm.trace_page import trace_page

        html.write_text(trace_page(report, trace.name), "utf-8")


def _show(report: TraceReport) -> None:
    from rich.console import Console

    from vlm.trace_page import lines_said, tail_head, tail_row

    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(lines_said(report))
    for kind, names in report.counts.items():
        say(f"{kind}: " + ", ".join(f"{name} {count:,}" for name, count in names.items()))
    console.print(_table(tail_head(report.tails), [tail_row(tail) for tail in report.tails]))
    if report.signals:
        rows = [
            [
                signal.name,
                signal.task or "all",
                signal.was,
                signal.now,
                f"{signal.drift.index:.3f}",
                f"{signal.drift.noise:.3f}",
                signal.drift.level,
            ]
            for signal in report.signals
            if signal.drift.index > 0
        ]
        head = ["drift of", "task", "before", "now", "index", "by chance", ""]
        console.print(_table(head, rows))
        same = [signal.name for signal in report.signals if signal.drift.index == 0]
        if same:
            say(f"the same as before: {', '.join(dict.fromkeys(same))}")
        say(
            "index: below 0.1 stable, from 0.25 on much (Siddiqi, 2006); by chance: its 99th percentile without drift"
        )
    say("look at:")
    for sentence in report.look_at:
        say(f"- {sentence}")


def _table(head: list[str], rows: list[list[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in head:
        table.add_column(name, justify="left" if name in ("ms", head[0], "task", "") else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
