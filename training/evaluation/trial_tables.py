"""A trial as a table to read, with what it comes to in words, and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from .trial import COST, MAIN, Measured, Trial

ITEMS = {"caption": "photos", "vqa": "questions", "maps": "photos"}
UNIT = {"caption": "points", "vqa": "points", "maps": "nats"}


def trial_record(trial: Trial) -> dict[str, Any]:
    """JSON-ready."""
    measured = {**trial.metrics, COST: trial.cost}
    return {
        "judged": trial.judged,
        "changed": {name: list(values) for name, values in trial.changed.items()},
        "n": trial.n,
        "main": MAIN[trial.judged],
        "verdict": trial.verdict,
        "figures": {name: _record(figure) for name, figure in measured.items()},
    }


def _record(figure: Measured) -> dict[str, Any]:
    record: dict[str, Any] = {"values": list(figure.values)}
    if figure.intervals is not None:
        record["ci95"] = [[i.low, i.high] for i in figure.intervals]
    if (difference := figure.difference) is not None:
        record["difference"] = {
            "value": difference.value,
            "ci95": [difference.interval.low, difference.interval.high],
            "p_value": difference.p_value,
            "more_than_noise": difference.more_than_noise,
        }
    return record


def show_trial(trial: Trial, names: tuple[str, str]) -> None:
    """Print it; `names` are those of the settings files."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for name, (a, b) in trial.changed.items():
        say(f"{name}: {a} in {names[0]}, {b} in {names[1]}")
    table = Table(title=f"{trial.n:,} {ITEMS[trial.judged]}, 95 % intervals, paired")
    table.add_column("")
    for title in (*names, "difference", "p"):
        table.add_column(title, justify="right")
    for name, figure in {**trial.metrics, COST: trial.cost}.items():
        table.add_row(name, *_cells(figure))
    console.print(table)
    for sentence in sentences(trial, names):
        say(sentence)


def _cells(figure: Measured) -> list[str]:
    difference = figure.difference
    if figure.intervals is None or difference is None:
        return [*(f"{value:.1f}" for value in figure.values), "", ""]
    shown = [
        f"{value:.1f} ({interval.low:.1f} to {interval.high:.1f})"
        for value, interval in zip(figure.values, figure.intervals)
    ]
    return [*shown, _difference(figure), f"{difference.p_value:.3f}"]


def _difference(figure: Measured) -> str:
    assert figure.difference is not None
    interval = figure.difference.interval
    return f"{figure.difference.value:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"


def sentences(trial: Trial, names: tuple[str, str]) -> list[str]:
    """What it comes to: the main metric, and the cost."""
    first, second = names
    main, items = MAIN[trial.judged], ITEMS[trial.judged]
    unit = UNIT[trial.judged]
    if trial.verdict == "unknown":
        said = [f"too few {items} to tell {main} from noise"]
    elif trial.verdict == "no different":
        said = [
            f"no difference of {main} that {trial.n:,} {items} can tell from noise: "
            f"{_difference(trial.metrics[main])} {unit}"
        ]
    else:
        said = [
            f"{second} is {trial.verdict} than {first} by {main}: {_difference(trial.metrics[main])} {unit}"
        ]
    a, b = trial.cost.values
    what = "map of a text" if trial.judged == "maps" else items[:-1]
    cost = f"{second} takes {b:.1f} ms a {what}, {first} {a:.1f}"
    difference = trial.cost.difference
    if difference is None:
        cost += "; of one batch it cannot be told what of it is chance"
    elif not difference.more_than_noise:
        cost += ", which may be chance"
    return [*said, cost]
