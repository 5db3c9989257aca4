"""Who may use the app: a text file with a name and the salted hash of a password on each line.

A line is `NAME:$scrypt$ln=14,r=8,p=5$SALT$KEY`, as `passlib` writes scrypt. Lines that are empty or begin with # say
nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError

_MEMORY = 2**28  # bytes that checking one password may take


class AccountError(UserError):
    """A file of accounts, a name or a password that is of no use; the message says why."""


@dataclass(frozen=True)
class Secret:
    """A password's salted scrypt hash, with the cost that OWASP recommends for 16 MiB: slow on purpose."""

    salt: bytes
    key: bytes = b""
    log_n: int = 14
    r: int = 8
    p: int = 5

    @classmethod
    def of(cls, password: str) -> Secret:
        """A password under a new salt."""
        salt = secrets.token_bytes(16)
        return cls(salt, cls(salt).derived(password))

    @classmethod
    def parse(cls, text: str) -> Secret:
        """Read what `str` writes. Raises ValueError when it is something else."""
        parts = re.fullmatch(
            r"\$scrypt\$ln=(\d\d?),r=(\d\d?),p=(\d\d?)\$([\w+/]+)\$([\w+/]+)", text
        )
        if parts is None:
            raise ValueError("no scrypt hash")
        log_n, r, p = (int(number) for number in parts.group(1, 2, 3))
        if not (log_n and r and p) or 128 * r * (2**log_n + p) > _MEMORY:
            raise ValueError("a cost that cannot be")
        salt, key = (base64.b64decode(part + "==") for part in parts.group(4, 5))
        return cls(salt, key, log_n, r, p)

    def __str__(self) -> str:
        salt, key = (base64.b64encode(x).decode().rstrip("=") for x in (self.salt, self.key))
        return f"$scrypt$ln={self.log_n},r={self.r},p={self.p}${salt}${key}"

    def derived(self, password: str) -> bytes:
        """The key that a password gives. Keyboards write one letter with an accent in several ways: NFC has one."""
        text = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
        return hashlib.scrypt(
            text, salt=self.salt, n=2**self.log_n, r=self.r, p=self.p, maxmem=2 * _MEMORY, dklen=32
        )

    def matches(self, password: str) -> bool:
        return hmac.compare_digest(self.derived(password), self.key)


class Accounts:
    """Names and the hashes of their passwords."""

    def __init__(self, secrets: Mapping[str, Secret]) -> None:
        self.secrets = dict(secrets)
        self._nobody = Secret.of("")  # so that an unknown name takes as long as a wrong password
        self._one_at_a_time = (
            asyncio.Lock()
        )  # guesses must not take the processor from those inside

    @classmethod
    def read(cls, path: str | Path) -> Accounts:
        """The accounts of a file. Raises AccountError when it is missing, damaged or names nobody."""
        secrets: dict[str, Secret] = {}
        for number, line in enumerate(_lines(Path(path)), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, text = line.strip().partition(":")
            try:
                secret = Secret.parse(text)
            except (ValueError, binascii.Error):
                raise AccountError(
                    f"line {number} of {path} is not NAME:HASH as `vlm app --auth-file FILE --add-user NAME` "
                    "writes it; write it anew with that"
                ) from None
            if name in secrets:
                raise AccountError(f"{path} names {name!r} twice; leave one of the lines out")
            secrets[name] = secret
        if not secrets:
            raise AccountError(
                f"{path} names nobody; add somebody with: vlm app --auth-file {path} --add-user NAME"
            )
        return cls(secrets)

    async def admit(self, name: str, password: str) -> bool:
        """Whether the password is the name's."""
        secret = self.secrets.get(name, self._nobody)
        async with self._one_at_a_time:
            matches = await asyncio.to_thread(secret.matches, password)
        return matches and name in self.secrets


def add_account(path: str | Path, name: str, password: str) -> None:
    """Write a name and its password's hash into a file, in place of the name's line if it has one.

    The file is made where there is none, for its owner's eyes only. Raises AccountError when the name or password is of
    no use, or the file cannot be read or written.
    """
    if (
        not name
        or ":" in name
        or name != name.strip()
        or name.startswith("#")
        or not name.isprintable()
    ):
        raise AccountError(
            f"{name!r} cannot be a name: it has no colon, no space at its ends, and does not begin with #"
        )
    if not password:
        raise AccountError("the password is empty; choose one")
    path = Path(os.path.realpath(path))
    lines = _lines(path) if path.exists() else []
    kept = [line for line in lines if line.partition(":")[0].strip() != name]
    text = "".join(line + "\n" for line in [*kept, f"{name}:{Secret.of(password)}"])
    try:
        # Written beside the file and renamed, so that an interruption loses nobody.
        handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(fresh, path)
    except OSError as error:
        raise AccountError(f"{path} cannot be written: {error.strerror}") from None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise AccountError(f"{path} is no text file of names and hashes") from None
    except FileNotFoundError:
        raise AccountError(
            f"{path}: no such file; make it with: vlm app --auth-file {path} --add-user NAME"
        ) from None
    except OSError as error:
        raise AccountError(f"{path} cannot be read: {error.strerror}") from None
