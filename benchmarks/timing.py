"""Two sides timed in turns, and the row of the table that comes of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Ids = list[list[int]]
"""The tokens of each text that was written."""


@dataclass(frozen=True)
class Run:
    """One run of one side: what it took, in the row's unit, and what it wrote."""

    value: float
    ids: Ids


Side = Callable[[], Run]


@dataclass(frozen=True)
class Spread:
    """The median of several runs, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One measure: less is better.

    `ours`, `peer` and `limit` are in `unit`; the limit is what the machine allows. `ratio` is the peer's by ours,
    of runs that followed each other. The bars: `least_ratio`, `most_of_limit` times the limit, `most`.
    `same_words` says whether both wrote the same tokens; None where nothing is written.
    """

    part: str
    name: str
    unit: str
    ours: Spread
    peer: Spread | None = None
    ratio: Spread | None = None
    same_words: bool | None = None
    limit: float | None = None
    least_ratio: float | None = None
    most_of_limit: float | None = None
    most: float | None = None
    note: str = ""

    def bars(self) -> list[tuple[str, bool]]:
        """Each bar in words, and whether the medians meet it."""
        bars = []
        if self.least_ratio is not None and self.ratio is not None:
            bars.append((f"≥ {self.least_ratio:g}x", self.ratio.median >= self.least_ratio))
        if self.most_of_limit is not None and self.limit is not None:
            within = self.ours.median <= self.most_of_limit * self.limit
            bars.append((f"≤ {self.most_of_limit:g} limits", within))
        if self.most is not None:
            bars.append((f"≤ {self.most:g} {self.unit}", self.ours.median <= self.most))
        return bars

    def as_record(self) -> dict[str, Any]:
        bars = [{"bar": text, "met": met} for text, met in self.bars()]
        return asdict(self) | {"bars": bars}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Row:
        spreads = {
            name: Spread(**record[name]) for name in ("ours", "peer", "ratio") if record[name]
        }
        return cls(**{k: v for k, v in record.items() if k != "bars"} | spreads)


def timed(
    write: Callable[[], Ids], share: int = 1, clock: Callable[[], float] = time.perf_counter
) -> Side:
    """Milliseconds of a call by a `clock` of seconds, by `share` of the things that it made."""

    def run() -> Run:
        start = clock()
        ids = write()
        return Run((clock() - start) * 1000 / share, ids)

    return run


def between_tokens(times: Sequence[float]) -> float:
    """Milliseconds a token from the moments at which each was there; what came before the first is not counted."""
    return (times[-1] - times[0]) * 1000 / (len(times) - 1)


def compare(
    part: str,
    name: str,
    ours: Side,
    peer: Side | Mapping[str, Side] | None,
    repeats: int,
    unit: str = "ms",
    **held: Any,
) -> Row:
    """Run both sides in turns, each once before that for nothing; `held` are a row's limit, bars and note.

    Of several peers, by what they run in, the one of the best median is held against ours, and the note names it.
    Raises RuntimeError when the sides write different numbers of tokens, for then their times say nothing.
    """
    peers = dict(peer) if isinstance(peer, Mapping) else {} if peer is None else {"": peer}
    sides = [ours, *peers.values()]
    for side in sides:
        side()
    turns = [[side() for side in sides] for _ in range(repeats)]
    values = [[turn[i].value for turn in turns] for i in range(len(sides))]
    if not peers:
        return Row(part, name, unit, Spread.of(values[0]), **held)
    lengths = {tuple(len(ids) for ids in run.ids) for turn in turns for run in turn}
    if len(lengths) > 1:
        raise RuntimeError(f"{part}, {name}: the numbers of tokens differ: {sorted(lengths)}")
    medians = [statistics.median(times) for times in values[1:]]
    best = 1 + medians.index(min(medians))
    if len(peers) > 1:
        others = (f"{where} {value:,.0f} {unit}" for where, value in zip(peers, medians))
        said = f"theirs in {list(peers)[best - 1]}; {', '.join(others)}"
        held["note"] = f"{held['note']}; {said}" if "note" in held else said
    return Row(
        part,
        name,
        unit,
        Spread.of(values[0]),
        Spread.of(values[best]),
        Spread.of([theirs / our for our, theirs in zip(values[0], values[best])]),
        all(turn[0].ids == turn[best].ids for turn in turns) if turns[0][0].ids else None,
        **held,
    )
