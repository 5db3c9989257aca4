"""Where checkpoints are: bundled with the package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vlm.weights.store import CheckpointError

DEFAULT = "small"

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "README.md")


@dataclass(frozen=True)
class Available:
    """A checkpoint on this machine: its name, folder, bytes, tasks and licence."""

    name: str
    folder: Path
    size: int
    tasks: tuple[str, ...]
    licence: str


def bundled_folder() -> Path:
    """The folder of the bundled checkpoints: inside the installed package, or `assets/` of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "assets"
    return installed if installed.is_dir() else package.parent / "assets"


def find(name: str | Path | None = None) -> Path:
    """The folder of a checkpoint by bundled name, path or hub id; None is the bundled default.

    A hub id ("owner/name") is downloaded once and then read from the hub's cache. Raises CheckpointError when
    there is no such checkpoint or it cannot be fetched.
    """
    if name is None:
        name = DEFAULT
    folder = Path(name)
    if folder.is_dir():
        return folder
    bundled = bundled_folder() / str(name)
    if "/" not in str(name) and (bundled / "config.json").is_file():
        return bundled
    if isinstance(name, Path) or str(name).count("/") != 1 or str(name).startswith((".", "/")):
        known = ", ".join(entry.name for entry in available())
        raise CheckpointError(
            f"there is no model {str(name)!r}: give a folder, a hub id (owner/name) or one of {known}"
        )
    return _download(str(name))


def available() -> list[Available]:
    """Bundled checkpoints, and those of ours in the hub's cache."""
    entries = []
    for config in sorted(bundled_folder().glob("*/config.json")):
        entries.append(_describe(config.parent.name, config.parent))
    for name, folder in _cached():
        entries.append(_describe(name, folder))
    return entries


def _cached() -> list[tuple[str, Path]]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return []
    found = []
    for repo in sorted(cache.repos, key=lambda repo: repo.repo_id):
        for revision in repo.revisions:
            config = revision.snapshot_path / "config.json"
            if config.is_file() and "format_version" in json.loads(config.read_text()):
                found.append((repo.repo_id, revision.snapshot_path))
    return found


def _describe(name: str, folder: Path) -> Available:
    config = json.loads((folder / "config.json").read_text())
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return Available(name, folder, size, tuple(config["tasks"]), config["licence"])


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except LocalEntryNotFoundError:
        reason = "it is not in the cache and the hub cannot be reached"
    except HfHubHTTPError as error:
        reason = f"the hub says: {str(error).splitlines()[0]}"
    except (HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
    raise CheckpointError(f"the model {name!r} cannot be fetched: {reason}")
