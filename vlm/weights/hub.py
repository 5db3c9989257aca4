"""Where checkpoints are: bundled with the package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vlm.model.config import ConfigError, ModelConfig
from vlm.weights import CheckpointError
from vlm.weights.families import read_json, recognise
from vlm.weights.known import ALIASES

DEFAULT = "small"

# Ours, and what importers read of others'; pickled weights only where there are no others.
_CONFIGURATIONS = "*config.json"
_FILES = (
    _CONFIGURATIONS,
    "model*.safetensors",
    "open_clip_model.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "sentencepiece.bpe.model",
    "vocab.*",
    "merges.txt",
    "README.md",
)
_PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin")


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
    """The folder of a checkpoint by bundled name, path, alias or hub id; None is the bundled default.

    A hub id ("owner/name") is downloaded once and then read from the hub's cache. Raises CheckpointError when
    there is no such checkpoint or it cannot be fetched.
    """
    name = DEFAULT if name is None else name
    bundled = bundled_folder() / name
    if isinstance(name, str) and "/" not in name and os.path.isfile(bundled / "config.json"):
        return bundled  # also where the user's folder has the same name: theirs is "./name"
    if os.path.isdir(name):
        return Path(name)
    if isinstance(name, str):
        name = ALIASES.get(name, name)
    if isinstance(name, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join(entry.name for entry in available())
        raise CheckpointError(
            f"there is no model {str(name)!r}: give a folder, a hub id (owner/name) or one of {known}; "
            f"`vlm models --known` lists more"
        )
    return _download(name)


def available() -> list[Available]:
    """Bundled checkpoints, and those in the hub's cache that `vlm.load` reads; a damaged one is not available."""
    places = [(folder.name, folder) for folder in sorted(bundled_folder().glob("*/"))]
    entries = [_describe(name, folder) for name, folder in places + _cached()]
    return [entry for entry in entries if entry is not None]


def _cached() -> list[tuple[str, Path]]:
    """The models of the hub's cache, whoever made them."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, ValueError):  # the latter of a file in its place
        return []
    return sorted(
        (repo.repo_id, revision.snapshot_path)
        for repo in cache.repos
        for revision in repo.revisions
        if repo.repo_type == "model" and "main" in revision.refs
    )


def _describe(name: str, folder: Path) -> Available | None:
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    try:
        if (family := recognise(folder)) is not None:
            return Available(name, folder, size, family.tasks, _card_licence(folder))
        config = ModelConfig.from_dict(read_json(folder, "config.json"))
    except (CheckpointError, ConfigError):
        return None
    return Available(name, folder, size, config.tasks, config.licence)


def _card_licence(folder: Path) -> str:
    """The licence that a model card's metadata names, or "unknown"."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    try:
        return str((metadata_load(folder / "README.md") or {}).get("license", "unknown"))
    except (OSError, ValueError, YAMLError):
        return "unknown"


def fetch_file(name: str, file: str) -> Path:
    """One file of a model on the hub, downloaded once. Raises CheckpointError when it cannot be fetched."""
    from huggingface_hub import hf_hub_download

    with _reasons(f"{file} of {name} is not to be had"):
        return Path(hf_hub_download(name, file))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    missing = f"there is no folder {name!r}, nor such a model to fetch"
    with _reasons(missing):
        folder = Path(snapshot_download(name, allow_patterns=[_CONFIGURATIONS]))
    recognise(folder)  # before gigabytes arrive that nothing here reads
    with _reasons(missing):
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=list(_PICKLED)))
        return folder


@contextmanager
def _reasons(failure: str) -> Iterator[None]:
    """Turn the errors of the hub's client into CheckpointError."""
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        yield
        return
    except LocalEntryNotFoundError:
        reason = "it is not in the hub's cache, and the hub cannot be reached"
    except RepositoryNotFoundError:
        reason = "the hub has no such model, or it is private (`hf auth login`)"
    except Exception as error:  # the hub's client leaves its HTTP library's errors as they are
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    raise CheckpointError(f"{failure}: {reason}")
