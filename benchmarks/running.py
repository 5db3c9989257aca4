"""The app as a process of its own: started, waited for no longer than it may take, and ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 240.0  # a busy machine is slow, not wrong
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.02
MOST_READ = 100_000  # bytes of what it has printed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_app(*options: str) -> Iterator[tuple[str, int]]:
    """`vlm app` on a free port: its address and the process's id. Raises RuntimeError as `started` does."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "app.py", "--port", str(port), *options]
    with started(command, address) as process:
        yield f"{address}/", process.pid


@contextmanager
def started(
    command: Sequence[str], address: str, seconds: float = START_SECONDS
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that runs once it has printed its address, until the block ends.

    Raises RuntimeError, with what it has printed, when it ends before that or takes longer than `seconds`.
    """
    # A file, because a pipe that nobody empties stops who writes into it.
    with TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        with ending(process):
            _wait(process, output.fileno(), address, seconds)
            yield process


@contextmanager
def ending(process: subprocess.Popen[Any]) -> Iterator[None]:
    """A program ends with the block: when it is told to, or else it is killed."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)


def _wait(process: subprocess.Popen[bytes], output: int, address: str, seconds: float) -> None:
    start = time.monotonic()
    while True:
        ended = process.poll()  # before it is read, so that nothing of its last words is missed
        printed = os.pread(output, MOST_READ, 0).decode(errors="replace")
        if address in printed:
            return
        if ended is not None:
            raise RuntimeError(f"the server ended by itself, with {ended}; it said:\n{printed}")
        if time.monotonic() - start > seconds:
            raise RuntimeError(
                f"the server was not there after {seconds:g} s; it said:\n{printed or 'nothing'}"
            )
        time.sleep(LOOK_SECONDS)
