"""Images from the web, from hosts that were named, and never from inside the network that the server is in."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import httpcore

from vlm.server.refusals import Refusal

SECONDS = 15.0  # for all of a download
_PORTS = {"http": 80, "https": 443}
_SAFE = "/%:=&?~#+!$,;'@()*[]|"  # characters of a path and query that are sent as they are

_HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "vlm",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class FetchError(Refusal):
    """An address that nothing is fetched from; the message says why."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet; one that stands for an IPv4 address is what that is."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        tunnelled = [address.sixtofour, *(address.teredo or ())]
        if address.is_site_local or not all(is_public(part) for part in tunnelled if part):
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone: the one that was looked at is the one that is connected to.

    A name that has one address that is not public is refused as a whole.
    """

    def __init__(self, inner: httpcore.AsyncNetworkBackend, resolve: Resolve = resolve) -> None:
        self._inner = inner
        self._resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise FetchError(f"{host} has no address; is its name right?") from None
        for address in addresses:
            # A scope, as in fe80::1%eth0, is of a network that the server is in.
            if "%" in address or not is_public(ipaddress.ip_address(address)):
                raise FetchError(
                    f"{host} is not on the internet, and nothing is fetched from there"
                )
        *others, last = dict.fromkeys(addresses)
        for address in others:  # the first may be one of IPv6, which not every machine speaks
            with suppress(httpcore.ConnectError):
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
        return await self._inner.connect_tcp(last, port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Downloads:
    """Fetches images from some domains, at most `max_bytes` of each.

    A domain means this host alone, and "*.example.org" all below example.org. Redirects are not followed, and proxies
    that the environment names are not used: both would lead elsewhere than to what was checked.
    """

    def __init__(
        self,
        domains: Sequence[str],
        max_bytes: int,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._domains = [domain.lower().rstrip(".") for domain in domains]
        self._max_bytes = max_bytes
        self._network = network or PublicNetwork(httpcore.AnyIOBackend())
        self._ssl_context = ssl.create_default_context()

    async def fetch(self, url: str) -> bytes:
        """What an address holds. Raises FetchError where it is none that is allowed, or holds nothing."""
        target = self._checked(url)
        name = target.host.decode()
        try:
            async with (
                asyncio.timeout(SECONDS),
                httpcore.AsyncConnectionPool(
                    ssl_context=self._ssl_context, network_backend=self._network
                ) as pool,
                pool.stream("GET", target, headers=_HEADERS) as response,
            ):
                if 300 <= response.status < 400:
                    raise FetchError(
                        f"{name} sends elsewhere ({response.status}), and that is not followed; give the address itself"
                    )
                if response.status != 200:
                    raise FetchError(f"{name} has no image there: it answers {response.status}")
                data = bytearray()
                async for part in response.aiter_stream():
                    data += part
                    if len(data) > self._max_bytes:
                        raise FetchError(
                            f"the image at {name} is larger than the {self._max_bytes / 1e6:g} MB that are taken here",
                            413,
                        )
                return bytes(data)
        except TimeoutError:
            raise FetchError(f"{name} did not send the image within {SECONDS:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            raise FetchError(f"{name} cannot be reached, or does not speak HTTP") from None

    def _checked(self, url: str) -> httpcore.URL:
        """An address by its parts, of which the request is made: no two readings of the text can differ."""
        if not self._domains:
            raise FetchError(
                "this server fetches no images; send the image itself, as data:image/jpeg;base64,…"
            )
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host = host.encode("idna").decode().lower().rstrip(".") if not host.isascii() else host
        except (ValueError, UnicodeError):
            raise FetchError("the address of the image is none that can be read") from None
        if any(ord(character) <= 32 or character == "\\" for character in url) or not host:
            raise FetchError("the address of the image is none that can be read")
        if parts.scheme not in _PORTS or parts.username is not None or parts.password is not None:
            raise FetchError(
                "an image's address is https://… or http://…, without a user's name in it"
            )
        host = host.rstrip(".")
        if not any(_within(host, domain) for domain in self._domains):
            raise FetchError(
                f"images are fetched from {', '.join(self._domains)} alone, and not from {host}"
            )
        if port not in (None, 80, 443):
            raise FetchError("images are fetched from the ports 80 and 443 alone")
        path = quote(parts.path or "/", safe=_SAFE) + (
            f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
        )
        return httpcore.URL(
            scheme=parts.scheme.encode(),
            host=host.encode("ascii"),
            port=port or _PORTS[parts.scheme],
            target=path.encode("ascii"),
        )


def _within(host: str, domain: str) -> bool:
    return host.endswith(domain[1:]) if domain.startswith("*.") else host == domain
