"""The file of a trace: lines of JSON, written whole or not at all, and read with what is damaged counted."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

from vlm.errors import UserError
from vlm.options import Options


class TraceError(UserError):
    """A file that no line can be written to, or read from; the message says why."""


class TraceFile:
    """Lines of JSON at the end of a file, each written by one call, from any thread; a context manager.

    Half a line, which a killed run or a full disk left, is ended before the next, so it damages no other. What cannot
    be written is lost, and no answer with it: the first loss is told on the error stream, and at the end how many there
    were. Raises TraceError where the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = 0
        self._lock = threading.Lock()
        try:
            self._torn = _ends_in_half_a_line(path)
            # What was asked is the business of who runs this alone.
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise TraceError(f"--trace {path} cannot be written: {error.strerror}") from None

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a record as one line."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._lock:
            line = b"\n" + line if self._torn else line
            try:
                written = os.write(self._file, line)
            except OSError as error:
                self._lose(error.strerror or str(error))
                return
            self._torn = written < len(line)
            if self._torn:
                self._lose("there was room for a part of it alone")

    def lose(self, reason: str) -> None:
        """Count a line that there is not, and say so where it is the first."""
        with self._lock:
            self._lose(reason)

    def close(self) -> None:
        """End the file, and say how many lines were lost, if any."""
        os.close(self._file)
        if self.lost > 1:
            print(f"--trace {self.path}: {self.lost} lines were lost", file=sys.stderr)

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lose(self, reason: str) -> None:
        self.lost += 1
        if self.lost == 1:
            print(
                f"--trace {self.path}: a line was lost: {reason}; answers go on, and more losses are only counted",
                file=sys.stderr,
                flush=True,
            )


def _ends_in_half_a_line(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


@dataclass(frozen=True)
class Line:
    """One request of a trace.

    `number` is its line's in the file, from 1, and `photo` the name or the hash by which its image is found. `task` is
    None where there was an `error` and no answer. `settings` say what answered, `ms` are those of each stage, `labels`
    and `numbers` what is told of the request: the first by kind, the second in units that the report names.
    """

    number: int
    photo: str
    task: str | None
    error: str | None
    settings: Mapping[str, str]
    ms: Mapping[str, float]
    labels: Mapping[str, str]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Trace:
    """All whole lines of a file, and the numbers of those that are `damaged`."""

    path: Path
    lines: Sequence[Line]
    damaged: Sequence[int]


def read_trace(path: Path) -> Trace:
    """Read a trace. Raises TraceError where there is none, or none of its lines is whole."""
    lines, damaged = [], []
    try:
        for number, text in _texts(path):
            try:
                lines.append(_line(number, json.loads(text)))
            # Whatever else a line holds, it is none of ours.
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
                damaged.append(number)
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}") from None
    if not lines:
        what = f"its {len(damaged)} lines are damaged" if damaged else "it has no lines"
        raise TraceError(f"{path} is no trace: {what}; --trace FILE of vlm caption writes one")
    return Trace(path, lines, damaged)


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers; bytes that are not UTF-8 damage their own line alone."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.decode("utf-8", "surrogateescape")


def _line(number: int, record: Any) -> Line:
    """Raises an error of many kinds where the record is not one that `vlm.trace` writes."""
    # A million lines share a few texts: each is kept once.
    shared = {
        name: intern(str(record[name])) for name in ("version", "model", "device", "precision")
    }
    shared["openvino"] = str(bool(record["openvino"]))
    if "error" in record:
        return Line(number, "", None, str(record["error"]), shared, {}, {}, {})
    words, image = record["words"], record["image"]
    logprobs = [float(word["logprob"]) for word in words]
    numbers = {
        "tokens": float(record["tokens"]),
        # Of a caption no more than a word is ever likely.
        "confidence": math.exp(_mean(logprobs)),
        "entropy of a word": _mean([float(word["entropy"]) for word in words]),
        "image effect a word": float(record["image_effect"]) / max(1, len(words)),
        "passages": float(len(record["retrieved"])),
        "megapixels": int(image["width"]) * int(image["height"]) / 1e6,
    }
    if record["task"] == "answer":
        numbers["confidence"] = float(record["confidence"])
    numbers |= {f"share of {name}": float(share) for name, share in record["shares"].items()}
    ms = {name: float(value) for name, value in record["ms"].items()}
    if not all(math.isfinite(value) for value in [*numbers.values(), *ms.values()]):
        raise ValueError("a number that is none")
    labels = {
        "verdict": intern(str(record["verdict"])),
        "like photos": str(record["photo"]),
        "finished": str(bool(record["finished"])),
        "format": intern(str(image["format"])),
    }
    shared["options"] = intern(_told(record["options"]))
    photo = str(record.get("source") or image["sha256"][:12])
    return Line(number, photo, str(record["task"]), None, shared, ms, labels, numbers)


def _told(options: Mapping[str, Any]) -> str:
    """The options that are not what a plain search has, such as "beams 3, min_tokens 1"."""
    plain = vars(Options())
    told = {name: value for name, value in options.items() if plain.get(name) != value}
    return ", ".join(f"{name} {value}" for name, value in sorted(told.items())) or "greedy"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / max(1, len(values))
