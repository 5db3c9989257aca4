"""What a trace says: how many requests, how slow the slow ones were, what has drifted, and what to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlm.drift import Drift, drift_of_labels, drift_of_numbers
from vlm.trace_lines import Line, Trace

STAGES = ("read", "encode", "wait", "first_token", "tokens", "signals")
ALL_STAGES = "until answered"  # all but the last, which comes after the answer
POINTS = (50, 95, 99)  # percentiles
SLOWER = 1.5  # times the 95th percentile before, from which on a stage is named
SLOW_TAIL = 5.0  # times the median, from which on a 95th percentile is named
LEAST = 20  # lines of a trace, from which on times are judged
NAMED = 3  # lines of one kind that are named


@dataclass(frozen=True)
class Tail:
    """The milliseconds of a stage: how many lines have it, and its percentiles by POINTS, now and before."""

    stage: str
    n: int
    now: tuple[float, ...]
    before: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Signal:
    """What one signal of a task's requests, or of all requests (None), has done since."""

    task: str | None
    name: str
    drift: Drift
    was: str
    now: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "level": self.drift.level}


@dataclass(frozen=True)
class TraceReport:
    """The whole of it; `counts` are of kinds of things, by kind and name, and `look_at` sentences."""

    lines: int
    damaged: int
    lines_before: int | None
    damaged_before: int | None
    counts: dict[str, dict[str, int]]
    tails: list[Tail]
    signals: list[Signal]
    look_at: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "signals": [signal.to_dict() for signal in self.signals]}


def report_on(trace: Trace, before: Trace | None = None) -> TraceReport:
    """The report on a trace, with what has changed since another one."""
    tails = _tails(trace.lines, None if before is None else before.lines)
    signals = [] if before is None else _signals(before.lines, trace.lines)
    look_at = [*_drifted(signals), *_slow(tails, trace), *_damaged(trace, before), *_odd(trace)]
    return TraceReport(
        lines=len(trace.lines),
        damaged=len(trace.damaged),
        lines_before=None if before is None else len(before.lines),
        damaged_before=None if before is None else len(before.damaged),
        counts=_counts(trace.lines),
        tails=tails,
        signals=signals,
        look_at=look_at,
    )


def _counts(lines: Sequence[Line]) -> dict[str, dict[str, int]]:
    answered = [line for line in lines if line.task is not None]
    kinds: dict[str, Callable[[Line], str | None]] = {
        "task": lambda line: line.task,
        "error": lambda line: line.error,
        "verdict": lambda line: line.labels.get("verdict"),
        "like photos": lambda line: line.labels.get("like photos"),
        "finished": lambda line: line.labels.get("finished"),
        "format": lambda line: line.labels.get("format"),
        "model": lambda line: f"{line.settings['model']}, {line.settings['precision']}",
    }
    counted = {
        kind: dict(Counter(name for line in lines if (name := of(line)) is not None).most_common())
        for kind, of in kinds.items()
    }
    photos = Counter(line.photo for line in answered)
    counted["photos"] = {"distinct": len(photos), "seen again": len(answered) - len(photos)}
    return {kind: names for kind, names in counted.items() if names}


def _tails(lines: Sequence[Line], before: Sequence[Line] | None) -> list[Tail]:
    tails = []
    for stage in (*STAGES, ALL_STAGES):
        now, was = _times(lines, stage), _times(before or (), stage)
        if now:
            percentiles = tuple(np.percentile(now, POINTS).tolist())
            earlier = tuple(np.percentile(was, POINTS).tolist()) if was else None
            tails.append(Tail(stage, len(now), percentiles, earlier))
    return tails


def _times(lines: Sequence[Line], stage: str) -> list[float]:
    if stage == ALL_STAGES:
        return [_until_answered(line) for line in lines if line.ms]
    return [line.ms[stage] for line in lines if stage in line.ms]


def _until_answered(line: Line) -> float:
    return sum(ms for stage, ms in line.ms.items() if stage != "signals")


def _signals(before: Sequence[Line], now: Sequence[Line]) -> list[Signal]:
    """Everything that both have, of all requests and then of each task, the most changed first."""
    found = [
        _of_labels(None, "task", [_task(x) for x in before], [_task(x) for x in now]),
        *(
            _of_labels(
                None, name, [_setting(x, name) for x in before], [_setting(x, name) for x in now]
            )
            for name in ("version", "model", "device", "precision", "openvino")
        ),
    ]
    for task in ("caption", "answer"):
        was, present = ([x for x in lines if x.task == task] for lines in (before, now))
        if not was or not present:
            continue
        found.append(
            _of_labels(
                task,
                "options",
                [_setting(x, "options") for x in was],
                [_setting(x, "options") for x in present],
            )
        )
        for name in was[0].labels:
            found.append(
                _of_labels(
                    task, name, [x.labels[name] for x in was], [x.labels[name] for x in present]
                )
            )
        # A segment of the memory that a model lacks has no share of the attention.
        names = dict.fromkeys(name for x in (*was, *present) for name in x.numbers)
        for name in names:
            old, new = ([x.numbers.get(name, 0.0) for x in lines] for lines in (was, present))
            drift = drift_of_numbers(old, new)
            found.append(
                Signal(
                    task,
                    name,
                    drift,
                    f"median {np.median(old):.3g}",
                    f"median {np.median(new):.3g}",
                )
            )
    return sorted(found, key=lambda signal: -signal.drift.index)


def _of_labels(task: str | None, name: str, before: Sequence[str], now: Sequence[str]) -> Signal:
    """A signal of labels, told by the one whose share has changed most."""
    drift = drift_of_labels(before, now)
    moved = max(range(len(drift.bins)), key=lambda i: abs(drift.now[i] - drift.before[i]))
    shares = (f"{drift.bins[moved]} {share[moved]:.0%}" for share in (drift.before, drift.now))
    return Signal(task, name, drift, *shares)


def _task(line: Line) -> str:
    return line.task or f"no answer: {line.error}"


def _setting(line: Line, name: str) -> str:
    return line.settings[name]


def _drifted(signals: Sequence[Signal]) -> list[str]:
    told = []
    for signal in signals:
        drift = signal.drift
        if drift.level in ("some", "much"):
            whose = f" of {signal.task}s" if signal.task else ""
            how = "has drifted much" if drift.level == "much" else "has drifted somewhat"
            told.append(
                f"{signal.name}{whose} {how}: {signal.was} before, {signal.now} now "
                f"(index {drift.index:.2f}, by chance up to {drift.noise:.2f})"
            )
    return told


def _slow(tails: Sequence[Tail], trace: Trace) -> list[str]:
    told = []
    for tail in tails:
        median, high, _ = tail.now
        if tail.n < LEAST:
            continue
        if tail.before is not None and tail.before[1] > 0 and high >= SLOWER * tail.before[1]:
            told.append(
                f"{tail.stage}: the slowest twentieth takes {high:.0f} ms or more, {tail.before[1]:.0f} before"
            )
        elif median > 0 and high >= SLOW_TAIL * median:
            told.append(
                f"{tail.stage}: the slowest twentieth takes {high:.0f} ms or more, {high / median:.0f} times the median"
            )
    timed = [line for line in trace.lines if line.ms]
    slowest = sorted(timed, key=_until_answered, reverse=True)[:NAMED]
    if len(timed) >= LEAST and told:
        told.append(f"the slowest requests: {_named(slowest)}")
    return told


def _damaged(trace: Trace, before: Trace | None) -> list[str]:
    return [
        f"{part.path}: {len(part.damaged)} damaged lines were left out, the first is line {part.damaged[0]}"
        for part in (trace, before)
        if part is not None and part.damaged
    ]


def _odd(trace: Trace) -> list[str]:
    """Requests that a person may want to see."""
    answered = [line for line in trace.lines if line.task is not None]
    sure = [line for line in answered if line.labels["verdict"] == "sure"]
    kinds = {
        "sure, though the image made the words no likelier": [
            line for line in sure if line.numbers["image effect a word"] <= 0
        ],
        "unlike the photos that the model learnt from": [
            line for line in answered if line.labels["like photos"] == "False"
        ],
        "cut at the greatest length": [
            line for line in answered if line.labels["finished"] == "False"
        ],
        "got no answer": [line for line in trace.lines if line.error is not None],
    }
    told = [
        f"{len(lines)} of {len(trace.lines)} {kind}: {_named(lines[:NAMED])}"
        for kind, lines in kinds.items()
        if lines
    ]
    if answered:
        most = sorted(answered, key=lambda x: x.numbers["entropy of a word"], reverse=True)
        told.append(f"most undecided: {_named(most[:NAMED])}")
    return told


def _named(lines: Sequence[Line]) -> str:
    return ", ".join(f"line {x.number}" + (f" ({x.photo})" if x.photo else "") for x in lines)
