"""Where a program's image comes from: a data URL, an address on the web, or a file in a folder that was named."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from vlm.server.refusals import Refusal
from vlm.server.remote import Downloads
from vlm.server.settings import Settings

_DATA = re.compile(
    r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.I
)


class MediaError(Refusal):
    """An image that cannot be had; the message says why."""


class Media:
    """Reads images of at most `max_bytes`. `folders` are those whose files may be read by their path; mostly none."""

    @classmethod
    def of(cls, settings: Settings, folders: Sequence[str | Path] = ()) -> Media:
        """What a server's settings allow."""
        return cls(Downloads(settings.media_domains, settings.max_body), settings.max_body, folders)

    def __init__(
        self, downloads: Downloads, max_bytes: int, folders: Sequence[str | Path] = ()
    ) -> None:
        self._downloads = downloads
        self._max_bytes = max_bytes
        self._folders = [Path(os.path.realpath(folder)) for folder in folders]

    async def read(self, source: str) -> bytes:
        """The bytes of an image file. Raises Refusal where they are not to be had."""
        if source[:5].lower() == "data:":
            return await asyncio.to_thread(self._decoded, source)
        if source[:7].lower() == "http://" or source[:8].lower() == "https://":
            return await self._downloads.fetch(source)
        if self._folders:
            return await asyncio.to_thread(self._from_folder, source)
        raise MediaError(
            "an image is given as data:image/jpeg;base64,… or, where the server fetches images, as https://…"
        )

    def _decoded(self, url: str) -> bytes:
        head = _DATA.match(url)
        if head is None:
            raise MediaError(
                "a data URL of an image begins with data:image/jpeg;base64, or the like"
            )
        try:
            data = base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
        except (ValueError, binascii.Error):
            raise MediaError(
                "the data URL of the image is not in base64, or not all of it"
            ) from None
        return self._checked(data, "the image")

    def _from_folder(self, path: str) -> bytes:
        """A file below one of the folders. What is elsewhere is told from what is nowhere by nothing."""
        named = path.removeprefix("file://")
        refusal = MediaError(
            f"{named}: there is no such file in {' or '.join(map(str, self._folders))}, the only place to read from"
        )
        try:
            # A relative path counts from the first folder.
            real = Path(os.path.realpath(self._folders[0] / named))
        except (OSError, ValueError):  # a name that no file can have
            raise refusal from None
        if not any(real.is_relative_to(folder) for folder in self._folders):
            raise refusal
        try:
            # Neither a link that took the file's place meanwhile is followed, nor a pipe waited for.
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            raise refusal from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise refusal
        with open(handle, "rb") as file:
            return self._checked(file.read(self._max_bytes + 1), named)

    def _checked(self, data: bytes, name: str) -> bytes:
        if len(data) > self._max_bytes:
            raise MediaError(
                f"{name} is larger than the {self._max_bytes / 1e6:g} MB that are taken here", 413
            )
        return data
