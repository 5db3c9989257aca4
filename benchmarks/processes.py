"""What only a process of its own can show: start-up, peak memory, and the memory that a model holds."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.timing import Run, Side

ROOT = Path(__file__).resolve().parents[1]

# A child's peak counts its parent's memory at the fork, so the parent is a small process.
_COMMAND = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, peak * (1 if sys.platform == "darwin" else 1024) / 1e6]))
"""
_IMPORT = """
import json, time
start = time.perf_counter()
import vlm
print(json.dumps(time.perf_counter() - start))
"""
# Some words are written before the second look, for what is only made at first use.
_HELD = """
import json, sys
import psutil
import vlm
from vlm.loading import load
folder, photo, options = sys.argv[1:]
before = psutil.Process().memory_info().rss
model = load(folder, **json.loads(options))
model.encode(photo).caption(max_tokens=2)
print(json.dumps((psutil.Process().memory_info().rss - before) / 1e6))
"""


def import_seconds() -> Side:
    """Seconds of `import vlm` in a fresh interpreter."""
    return lambda: Run(float(_python(_IMPORT)), [])


def command(*arguments: str) -> tuple[float, float]:
    """Seconds of `vlm ARGUMENTS` from start to end, and its peak resident megabytes."""
    seconds, peak = json.loads(_python(_COMMAND, sys.executable, "-m", "vlm", *arguments))
    return seconds, peak


@contextmanager
def core_taken() -> Iterator[None]:
    """Another process that keeps one core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def held_megabytes(folder: Path, photo: Path, **options: object) -> float:
    """Resident megabytes that a model, and the library that runs it, add to a process that has torch and timm.

    They are counted once it has written a caption; `options` are those of `vlm.load`. It is a page at least, which is
    the least that the system tells apart.
    """
    held = json.loads(_python(_HELD, str(folder), str(photo), json.dumps(options)))
    return max(held, mmap.PAGESIZE / 1e6)


def _python(code: str, *arguments: str) -> str:
    # Large blocks go back to the system at once, so that only what is held is counted.
    environment = {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()[-1]
