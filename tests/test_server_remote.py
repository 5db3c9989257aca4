"""Images from the web: from hosts that were named, at the address that was looked at, and never from inside."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import httpcore
import openai
import pytest
from served import PHOTOS, client, picture, served

from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.server.remote import Downloads, FetchError, PublicNetwork, is_public
from vlm.server.settings import Settings
from vlm.server.web import application

PUBLIC = "93.184.215.14"


class Web(BaseHTTPRequestHandler):
    """A host of the web; every request's path and Host are kept."""

    seen: list[tuple[str, str]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Host"]))
        if self.path == "/moved.jpg":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/secret")
            self.end_headers()
        elif self.path.startswith("/dog.jpg"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PHOTOS[2].read_bytes())
        elif self.path == "/endless.jpg":
            self.send_response(200)
            self.end_headers()
            while self.wfile.write(b"x" * 65536):
                pass
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


class Wires(httpcore.AsyncNetworkBackend):
    """Keeps what is connected to, and connects to a server of this machine instead."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connected: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *rest: Any, **named: Any) -> Any:
        self.connected.append((host, port))
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.port)


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def wires(web: int) -> Wires:
    Web.seen.clear()
    return Wires(web)


def downloads(wires: Wires, *answers: list[str], limit: int = 1_000_000) -> Downloads:
    """Of hosts whose name has these addresses, the next list each time that it is looked up."""
    left = list(answers)

    async def resolve(host: str, port: int) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    network = PublicNetwork(wires, resolve)
    return Downloads(["example.org", "*.Wiki.example."], limit, network)


def fetch(source: Downloads, url: str) -> bytes:
    return anyio.run(source.fetch, url)


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://example.org/dog.jpg", "example.org", "/dog.jpg"),
        ("http://EXAMPLE.org./dog.jpg?a=b%20c&d", "example.org", "/dog.jpg?a=b%20c&d"),
        ("http://a.b.wiki.example:80/dog.jpg#x", "a.b.wiki.example", "/dog.jpg"),
    ],
)
def test_an_image_comes_from_the_address_that_was_looked_at(
    wires: Wires, url: str, host: str, path: str
) -> None:
    # A name that is public when it is looked at, and this machine the next time.
    source = downloads(wires, [PUBLIC], ["127.0.0.1"])
    assert fetch(source, url) == PHOTOS[2].read_bytes()
    assert wires.connected == [(PUBLIC, 80)]
    assert Web.seen == [(path, host)]


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.org/dog.jpg",
        "http://sub.example.org/dog.jpg",
        "http://wiki.example/dog.jpg",
        "http://notwiki.example/dog.jpg",
        "http://example.org.evil.org/dog.jpg",
        "http://example.org@evil.org/dog.jpg",
        "http://evil.org\\@example.org/dog.jpg",
        "http://evil.org#@example.org/dog.jpg",
        "http://user:word@example.org/dog.jpg",
        "http://example.org:22/dog.jpg",
        "http://example.org:99999/dog.jpg",
        "http://127.0.0.1/dog.jpg",
        "http://2130706433/dog.jpg",
        "http://0x7f.1/dog.jpg",
        "http://[::1]/dog.jpg",
        "http://[::1/dog.jpg",
        "http:///dog.jpg",
        "http://example.org/a b.jpg",
        "http://example.org/\r\nHost: evil",
        "ftp://example.org/dog.jpg",
        "file:///etc/passwd",
        "HTTP://",
    ],
)
def test_nothing_is_fetched_from_elsewhere(wires: Wires, url: str) -> None:
    with pytest.raises(FetchError):
        fetch(downloads(wires, [PUBLIC]), url)
    assert wires.connected == Web.seen == []


INSIDE = [
    *["127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "192.168.1.1"],
    *["169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1"],
    *["198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1"],
    *["::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::"],
    *["2002:c0a8:101::1", "2001:0:7f00:1::1", "2001:db8::1", "::7f00:1", "fec0::1", "64:ff9b:1::1"],
]


@pytest.mark.parametrize("address", INSIDE)
def test_a_host_inside_is_never_connected_to(wires: Wires, address: str) -> None:
    for addresses in ([address], [PUBLIC, address]):
        with pytest.raises(FetchError, match="not on the internet"):
            fetch(downloads(wires, addresses), "http://example.org/dog.jpg")
    assert wires.connected == Web.seen == []


@pytest.mark.parametrize(
    "address", [PUBLIC, "2606:2800:21f:cb07::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_a_host_of_the_internet_is(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("moved.jpg", "sends elsewhere"),
        ("missing.jpg", "answers 404"),
        ("endless.jpg", "larger than the 1 MB"),
    ],
)
def test_what_a_host_answers_instead_is_told(wires: Wires, path: str, says: str) -> None:
    with pytest.raises(FetchError, match=says):
        fetch(downloads(wires, [PUBLIC]), f"http://example.org/{path}")
    assert Web.seen == [(f"/{path}", "example.org")]


def test_who_speaks_no_http_or_listens_nowhere_is_told(wires: Wires) -> None:
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch(downloads(wires, [PUBLIC]), "https://example.org/dog.jpg")
    wires.port = 1
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch(downloads(wires, [PUBLIC]), "http://example.org/dog.jpg")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_fetches_still_fetches_nothing_from_inside(
    tiny: Captioner, web: int, host: str
) -> None:
    Web.seen.clear()
    settings = Settings("tiny", media_domains=("localhost", "127.0.0.1", "*.invalid"))
    with Engine(tiny) as engine, served(application(engine, settings)) as address:
        for url in (f"http://{host}/dog.jpg", f"http://{host}:{web}/dog.jpg"):
            message = {"role": "user", "content": [picture(url)]}
            with pytest.raises(openai.BadRequestError):
                client(address).chat.completions.create(model="tiny", messages=[message])
    assert Web.seen == []
