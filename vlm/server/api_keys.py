"""Who may use the endpoints: a text file with a name and the hash of a key on each line.

A line is `NAME:HASH`, the SHA-256 of the key in hexadecimal. Keys are 32 random bytes that no one can guess, so a fast
hash without salt keeps them secret. Lines that are empty or begin with # say nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from vlm.errors import UserError

PREFIX = "vlm-"


class KeyFileError(UserError):
    """A file of keys or a name that is of no use; the message says why."""


class ApiKeys:
    """Names and the hashes of their keys."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self.hashes = dict(hashes)

    @classmethod
    def read(cls, path: str | Path) -> ApiKeys:
        """The keys of a file. Raises KeyFileError when it is missing, damaged or names nobody."""
        hashes: dict[str, str] = {}
        for number, line in enumerate(_lines(Path(path)), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, text = line.strip().rpartition(":")
            if not name or not re.fullmatch("[0-9a-f]{64}", text):
                raise KeyFileError(
                    f"line {number} of {path} is not NAME:HASH as `vlm serve --api-keys FILE --add-key NAME` writes it"
                )
            if name in hashes:
                raise KeyFileError(f"{path} names {name!r} twice; leave one of the lines out")
            hashes[name] = text
        if not hashes:
            raise KeyFileError(
                f"{path} has no key; add one with: vlm serve --api-keys {path} --add-key NAME"
            )
        return cls(hashes)

    def owner(self, key: str) -> str | None:
        """Whose key it is; None where it is nobody's."""
        given = _hash(key)
        # All are compared, and each in the same time: how long it takes tells nothing about them.
        found = [name for name, own in self.hashes.items() if hmac.compare_digest(own, given)]
        return found[0] if found else None


def add_key(path: str | Path, name: str) -> str:
    """Make a key for a name, write its hash into a file, and return the key, which is kept nowhere else.

    It takes the place of the key that the name had. The file is made where there is none, for its owner's eyes only.
    Raises KeyFileError when the name is of no use, or the file cannot be read or written.
    """
    if not name or ":" in name or name != name.strip() or name[0] == "#" or not name.isprintable():
        raise KeyFileError(
            f"{name!r} cannot be a name: it has no colon, no space at its ends, and does not begin with #"
        )
    path = Path(os.path.realpath(path))
    lines = _lines(path) if path.exists() else []
    kept = [line for line in lines if line.rpartition(":")[0].strip() != name]
    key = PREFIX + secrets.token_urlsafe(32)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # Written beside the file and renamed, so that an interruption loses no key.
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(line + "\n" for line in [*kept, f"{name}:{_hash(key)}"])
        part.replace(path)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from None
    return key


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is no text file of names and hashes") from None
    except FileNotFoundError:
        raise KeyFileError(
            f"{path}: no such file; make it with: vlm serve --api-keys {path} --add-key NAME"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
