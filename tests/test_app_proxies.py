"""The app behind the web servers of docs/serving.md, with the samples that stand there."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from app_server import (
    PATIENCE,
    REPOSITORY,
    assert_captioned,
    browsing,
    choose_file,
    serving,
)
from documentation import blocks
from openai import DefaultHttpxClient
from playwright.sync_api import Browser, expect
from served import asking, client, served

import vlm
from benchmarks.running import ending, free_port
from vlm.app.accounts import add_account
from vlm.captioner import Answer, Captioner
from vlm.engine import Engine
from vlm.server.settings import Settings
from vlm.server.web import application

SERVING = (REPOSITORY / "docs" / "serving.md").read_text("utf-8")
DOG = REPOSITORY / "assets" / "examples" / "dog.jpg"
PASSWORD = "correct horse battery staple"

Proxy = Callable[[str, int, Path], AbstractContextManager[int]]


def program(name: str) -> str:
    """The path of a program of the system; without it the test is skipped, and in CI fails."""
    unpacked = REPOSITORY / ".venv" / "proxies" / "usr"
    places = [os.environ["PATH"], "/usr/sbin", str(unpacked / "sbin"), str(unpacked / "bin")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        reason = f"no {name} on this machine; `make proxies` installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem, for localhost, signed by itself."""
    folder = tmp_path_factory.mktemp("certificate")
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    command = [program("openssl"), *request.split()]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def nginx(sample: str, upstream: int, folder: Path, port: int | None = None) -> Iterator[int]:
    """nginx with a server of the documentation, on a port of this machine."""
    port = port or free_port()
    server = sample.replace("listen 443 ssl", f"listen {port} ssl")
    server = server.replace("127.0.0.1:7860", f"127.0.0.1:{upstream}")
    server = server.replace("server_name photos.example.org", "server_name localhost")
    server = server.replace("/etc/ssl/certs/photos.example.org.pem", "cert.pem")
    server = server.replace("/etc/ssl/private/photos.example.org.key", "key.pem")
    paths = [
        f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    ]
    user = "user root;" if os.geteuid() == 0 else ""  # who can write into the test's folder
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid nginx.pid; error_log stderr; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {' '.join(paths)}\n{server}}}\n"
    )
    command = [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with listening(command, port):
        yield port


def nginx_that_keeps_https_to_itself(
    sample: str, upstream: int, folder: Path
) -> AbstractContextManager[int]:
    forwarding = "proxy_set_header X-Forwarded-Proto $scheme;"
    assert forwarding in sample
    return nginx(sample.replace(forwarding, ""), upstream, folder)


def nginx_that_leaves_the_path(
    sample: str, upstream: int, folder: Path
) -> AbstractContextManager[int]:
    stripping = "proxy_pass http://127.0.0.1:7860/;"
    assert stripping in sample
    kept = sample.replace(stripping, stripping.replace("/;", ";"))
    return nginx(kept, upstream, folder)


@contextmanager
def caddy(sample: str, upstream: int, folder: Path) -> Iterator[int]:
    """Caddy with a site of the documentation, on a free port of this machine."""
    port = free_port()
    site = sample.replace("127.0.0.1:7860", f"127.0.0.1:{upstream}")
    site = site.replace(
        "photos.example.org {",
        f"https://localhost:{port} {{\n tls {folder}/cert.pem {folder}/key.pem",
    )
    options = f"{{\n admin off\n auto_https disable_redirects\n storage file_system {folder}\n}}\n"
    (folder / "Caddyfile").write_text(options + site)
    command = [program("caddy"), "run", "--config", str(folder / "Caddyfile")]
    with listening(command, port):
        yield port


@contextmanager
def listening(command: list[str], port: int) -> Iterator[None]:
    """A program for as long as the block runs, which begins once it listens."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with ending(process):
        for _ in range(600):
            if process.poll() is not None:
                pytest.fail(process.stderr.read() if process.stderr else "it ended")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.fail(f"{command[0]} does not listen on port {port}")
        yield


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("accounts") / "users"
    add_account(file, "ada", PASSWORD)
    return file


@pytest.fixture(scope="module")
def upstream(tiny_checkpoint: Path, users: Path) -> Iterator[int]:
    """The port of the app that is to be shown under /vlm, with a login."""
    options = ("--root-path", "/vlm", "--auth-file", str(users))
    with serving(tiny_checkpoint, *options) as (address, _):
        yield httpx.URL(address).port


@pytest.fixture(scope="module")
def browser(certificate: Path) -> Iterator[Browser]:
    """A browser that trusts the certificate.

    One that is told to ignore a certificate's errors begins each request on a new connection again, and with several at
    once it now and then gives one up (ERR_TOO_MANY_RETRIES), and the page stays empty.
    """
    openssl = program("openssl")
    pem = subprocess.check_output(
        [openssl, "x509", "-in", str(certificate / "cert.pem"), "-pubkey", "-noout"]
    )
    der = subprocess.check_output([openssl, "pkey", "-pubin", "-outform", "der"], input=pem)
    key = b64encode(sha256(der).digest()).decode()
    with browsing(f"--ignore-certificate-errors-spki-list={key}") as browser:
        yield browser


@pytest.fixture(scope="module")
def dog_caption(tiny_checkpoint: Path) -> Answer:
    return vlm.load(tiny_checkpoint).encode(DOG).caption()


def sample_of(language: str) -> str:
    (sample,) = blocks(SERVING, language)
    return sample


def use(browser: Browser, address: str, caption: Answer) -> None:
    """Log in, have a photo captioned and ask about it; all requests go to the address."""
    troubles: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda r: print(r.url, r.failure))  # to tell why a page stays empty
    page.on(
        "request", lambda r: r.url.startswith((address, "data:", "blob:")) or troubles.append(r.url)
    )
    page.goto(address)
    page.get_by_label("username").fill("ada")
    page.get_by_label("password").fill(PASSWORD)
    page.get_by_role("button", name="login").click()
    page.locator(".examples button").first.wait_for()
    choose_file(page, DOG)
    assert_captioned(page, caption)
    picture = page.locator(".picture img")
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") == 640
    page.get_by_label("Ask about the photo").fill("is there a dog?")
    page.keyboard.press("Enter")
    expect(page.locator(".answers li")).to_have_count(1, timeout=PATIENCE)
    photo = picture.evaluate("image => image.src")
    assert httpx.get(photo, verify=False).status_code == 401
    context.close()
    assert troubles == []


@pytest.mark.parametrize(
    ("language", "proxy"),
    [
        ("nginx", nginx),
        ("nginx", nginx_that_keeps_https_to_itself),
        ("nginx", nginx_that_leaves_the_path),
        ("caddy", caddy),
    ],
)
def test_the_app_works_under_a_path_with_https_and_a_login(
    language: str,
    proxy: Proxy,
    upstream: int,
    certificate: Path,
    browser: Browser,
    dog_caption: Answer,
) -> None:
    with proxy(sample_of(language), upstream, certificate) as port:
        use(browser, f"https://localhost:{port}/vlm", dog_caption)  # without the slash


@pytest.mark.parametrize(("language", "proxy"), [("nginx", nginx), ("caddy", caddy)])
def test_programs_are_answered_under_a_path_with_https(
    language: str, proxy: Proxy, certificate: Path, tiny: Captioner
) -> None:
    greedy = {"vlm": {"search": {"beams": 1, "min_tokens": 12}}}
    with Engine(tiny) as engine, served(application(engine, Settings("tiny"))) as local:
        upstream = httpx.URL(local).port
        assert upstream
        with proxy(sample_of(language), upstream, certificate) as port:
            programs = client(f"https://localhost:{port}/vlm").with_options(
                http_client=DefaultHttpxClient(verify=False)
            )
            chunks = programs.chat.completions.create(
                model="tiny", messages=asking(DOG), stream=True, extra_body=greedy
            )
            said = "".join(c.choices[0].delta.content or "" for c in chunks)
            assert said == tiny.encode(DOG).caption(beams=1, min_tokens=12).text
            large = httpx.post(
                f"https://localhost:{port}/vlm/v1/chat/completions",
                content=b"x" * 33_000_000,
                headers={"Content-Type": "application/json"},
                verify=False,
            )
            assert large.status_code == 413
            assert "too large" in large.json()["error"]["message"]


def test_a_whole_address_does_for_a_web_server_that_passes_nothing_on(
    tiny_checkpoint: Path,
    users: Path,
    certificate: Path,
    browser: Browser,
    dog_caption: Answer,
) -> None:
    program("nginx")
    bare = re.sub(r".*proxy_set_header.*\n", "", sample_of("nginx"))
    port = free_port()
    address = f"https://localhost:{port}/vlm"
    options = ("--root-path", address, "--auth-file", str(users))
    with serving(tiny_checkpoint, *options) as (local, _):
        upstream = httpx.URL(local).port
        assert upstream
        with nginx(bare, upstream, certificate, port):
            use(browser, address + "/", dog_caption)
