"""Conversions of other libraries' checkpoints, kept in the user's cache and removed when nothing asks for them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import IO

from vlm import __version__
from vlm.model.config import FORMAT_VERSION
from vlm.weights import CheckpointError
from vlm.weights.convert import convert
from vlm.weights.families import recognise

try:
    import fcntl
except ImportError:  # Windows, which moves no folder with a file that is open
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LIMIT = 20_000_000_000  # bytes of all conversions together; one of BLIP's large models has 2
UNFINISHED = 24 * 3600  # seconds after which no one is still writing a folder
MARK = "source.json"  # what a conversion was made of; its time is that of the last use


@contextmanager
def as_ours(source: Path) -> Iterator[Path]:
    """The folder of a checkpoint as ours, to be read inside the context: itself, or its conversion.

    A conversion is made at the first use, and anew when the foreign files change, or the release that reads them.
    Raises CheckpointError, see `vlm.weights.convert.read_foreign`, and where the cache cannot be written.
    """
    if recognise(source) is None:
        yield source
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vlm" / "converted"
    folder = cache / f"{_digest(str(source.resolve()))}-{_state(source)}"
    mark = _hold(folder)
    if mark is None:
        _make(source, folder)
        mark = _hold(folder)
        _prune(cache, folder)
    if mark is None:
        raise CheckpointError(f"{folder} was removed as soon as it was made; try again")
    with mark:
        yield folder


def _state(source: Path) -> str:
    """Changes with any file of a foreign checkpoint, and with the release that reads it."""
    files = sorted(file for file in source.iterdir() if file.is_file())
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _digest(repr((__version__, FORMAT_VERSION, stats)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _make(source: Path, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made elsewhere and then moved: a run that is interrupted, or two at once, leave no half of one.
        with TemporaryDirectory(dir=folder.parent) as part:
            made = Path(part) / folder.name
            convert(source, made)
            values = {"source": str(source.resolve()), "state": _state(source)}
            (made / MARK).write_text(json.dumps(values))
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise CheckpointError(
            f"the conversion of {source} cannot be kept in {folder.parent} ({error.strerror or error}); "
            f"make room, or set XDG_CACHE_HOME to another folder"
        ) from None


def _hold(folder: Path) -> IO[str] | None:
    """A conversion's mark, open, or None where there is none: until it is closed no process removes the folder."""
    try:
        mark = (folder / MARK).open()
    except OSError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(mark, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # it is being removed
        mark.close()
        return None
    except OSError:
        pass  # a file system without locks, where none is removed either
    try:
        there = os.path.samestat(os.fstat(mark.fileno()), (folder / MARK).stat())
    except OSError:
        there = False
    if not there:  # removed between the two
        mark.close()
        return None
    with suppress(OSError):  # a cache that is only read
        os.utime(folder / MARK)
    return mark


def _prune(cache: Path, made: Path) -> None:
    """Remove conversions of what has changed or is gone, and those least recently used beyond `LIMIT`.

    One that a process holds stays, and so does `made`.
    """
    total = _size(made)
    others = [entry for entry in cache.iterdir() if entry != made]
    for entry in sorted(others, key=_last_use, reverse=True):
        reason, size = _stale(entry), _size(entry)
        if reason is None and total + size > LIMIT:
            reason = f"others of {total / 1e9:.1f} GB were used since"
        if reason is not None and _remove(entry):
            log.debug("removed the conversion %s: %s", entry, reason)
        else:
            total += size


def _stale(entry: Path) -> str | None:
    """Why nothing will ask for a conversion again, or None."""
    try:
        values = json.loads((entry / MARK).read_text())
        source, state = Path(values["source"]), values["state"]
    except (OSError, ValueError, TypeError, KeyError):  # a part of one, or of an older release
        return "it is not whole" if time.time() - _last_use(entry) > UNFINISHED else None
    try:
        return None if _state(source) == state else f"{source} or this release has changed"
    except OSError:
        return f"{source} is gone"


def _remove(entry: Path) -> bool:
    """Whether a conversion that no process holds is gone; it goes in one move, so that none is seen in part."""
    grave = Path(mkdtemp(dir=entry.parent, prefix="removed-"))
    with ExitStack() as stack:
        try:
            if fcntl is not None and (entry / MARK).is_file():
                mark = stack.enter_context((entry / MARK).open("r+"))
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entry.rename(grave / entry.name)
            return True
        except OSError:  # a process holds it, or has removed it
            return False
        finally:
            shutil.rmtree(grave, ignore_errors=True)


def _last_use(entry: Path) -> float:
    for place in (entry / MARK, entry):
        with suppress(OSError):
            return place.stat().st_mtime
    return 0.0


def _size(entry: Path) -> int:
    """Bytes; none of what another process removes meanwhile."""
    with suppress(OSError):
        return sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
    return 0
