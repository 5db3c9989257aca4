"""How the app feels: start, memory, an idle processor, the first word, a heatmap, and many people at once."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer
from gradio_client.utils import apply_diff
from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

import vlm
from benchmarks.roofline import cpu_name
from benchmarks.running import ROOT, running_app
from benchmarks.timing import Row, Spread
from vlm.captioner import Captioner
from vlm.engine import Engine

EXAMPLES = sorted((ROOT / "assets" / "examples").glob("*.jpg"))
FOLDER = 64  # photos of the one who captions a folder meanwhile
SECONDS = 300.0  # for one reply; a crowd's last waits for all

app = typer.Typer(add_completion=False, help=__doc__)


@dataclass
class Visit:
    """What one visitor saw: moments in seconds since the photo was sent, and the view at the end."""

    first_word: float | None = None
    end: float = 0.0
    places: list[int] = field(default_factory=list)  # in line, as the page showed them
    view: dict[str, Any] = field(default_factory=dict)

    @property
    def caption(self) -> list[str]:
        caption = self.view.get("caption") or {"words": []}
        return [word["text"] for word in caption["words"]]


class Visitor:
    """One browser tab as the server sees it: uploads, and events of the page's components."""

    def __init__(self, address: str, config: Mapping[str, Any]) -> None:
        self.config = config
        self.http = httpx.Client(base_url=f"{address}gradio_api/", timeout=SECONDS)
        self.session = secrets.token_hex(6)
        self.turn = 0

    def upload(self, photo: Path) -> str:
        files = {"files": (photo.name, photo.read_bytes(), "image/jpeg")}
        return self.http.post("upload", files=files).raise_for_status().json()[0]

    def views(self, event: str, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What the page is sent for an event."""
        listener = next(d for d in self.config["dependencies"] if d["targets"][0][1] == event)
        request = {
            "data": [None],
            "event_data": dict(data),
            "fn_index": listener["id"],
            "trigger_id": listener["targets"][0][0],
            "session_hash": self.session,
        }
        self.http.post("queue/join", json=request).raise_for_status()
        said: Any = None
        session = {"session_hash": self.session}
        with self.http.stream("GET", "queue/data", params=session) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {"msg": ""}
                if message["msg"] == "process_generating":
                    # The first is whole, and each later one says what has changed.
                    (found,) = message["output"]["data"]
                    said = found if said is None else apply_diff(said, found)
                    yield said
                elif message["msg"] == "process_completed":
                    return

    def describe(self, photo: Path) -> Visit:
        """Send a photo and read its caption as it comes."""
        path = self.upload(photo)
        self.turn += 1
        visit, start = Visit(), time.perf_counter()
        for view in self.views("photo", {"turn": self.turn, "path": path, "name": photo.name}):
            visit.end = time.perf_counter() - start
            visit.view = view
            if view["before"]:
                visit.places.append(view["before"])
            if visit.first_word is None and view["caption"] and view["caption"]["words"]:
                visit.first_word = visit.end
        return visit

    def folder(self, photos: list[Path]) -> tuple[int, float]:
        """Caption photos in the Folder tab; how many have their caption, and in what time."""
        files = [{"path": self.upload(photo), "name": photo.name} for photo in photos]
        for _ in self.views("bring", {"files": files}):
            pass
        start = time.perf_counter()
        *_, last = self.views("describe", {"rows": [], "captions": 1, "chance": False})
        return last["captioned"], time.perf_counter() - start


@dataclass
class Crowd:
    """What many people at once saw; `planted` are the captions that their photos have by the model itself."""

    planted: list[list[str]]
    visits: list[Visit]
    folder: tuple[int, float]

    @property
    def mixed(self) -> int:
        """Visitors whose caption is not their photo's."""
        pairs = zip(self.visits, self.planted, strict=True)
        return sum(visit.caption != caption for visit, caption in pairs)


def crowd(address: str, captioner: Captioner, people: int, folder: int = FOLDER) -> Crowd:
    """Let `people` each send a photo of their own at the same moment, while another captions a folder."""
    config = httpx.get(f"{address}config").json()
    with tempfile.TemporaryDirectory() as temporary:
        photos = distinct_photos(Path(temporary), people + folder)
        mine, others = photos[:people], photos[people:]
        captions = (captioner.encode(photo).caption() for photo in mine)
        planted = [[word.text for word in caption.words] for caption in captions]
        ready = threading.Barrier(people, timeout=SECONDS)

        def visit(photo: Path) -> Visit:
            visitor = Visitor(address, config)
            ready.wait()
            return visitor.describe(photo)

        with ThreadPoolExecutor(people + 1) as pool:
            busy = pool.submit(Visitor(address, config).folder, others)
            visits = list(pool.map(visit, mine))
            return Crowd(planted, visits, busy.result())


def distinct_photos(folder: Path, number: int) -> list[Path]:
    """Photos of which no two are alike: parts of the examples."""
    paths = []
    for i in range(number):
        with Image.open(EXAMPLES[i % len(EXAMPLES)]) as photo:
            side = min(photo.size) * (10 - i // len(EXAMPLES) % 6) // 10
            left = (photo.width - side) * (i % 7) // 7
            paths.append(folder / f"{i}.jpg")
            photo.convert("RGB").crop((left, 0, left + side, side)).save(paths[-1])
    return paths


FIRST_WORD = """() => {
  window.firstWord = null;
  new MutationObserver((_, watching) => {
    if (!document.querySelector(".caption > *")) return;
    window.firstWord = performance.now();
    watching.disconnect();
  }).observe(document.querySelector(".caption"), { childList: true });
}"""
SINCE_UPLOAD = """() => {
  const uploads = performance.getEntriesByType("resource").filter((e) => e.name.includes("/gradio_api/upload"));
  return window.firstWord - Math.max(...uploads.map((e) => e.responseEnd));
}"""
HOVERS = """async () => {
  const times = [];
  for (const button of document.querySelectorAll(".caption button")) {
    const start = performance.now();
    button.dispatchEvent(new PointerEvent("pointerover", { pointerType: "mouse", bubbles: true }));
    const drawn = !document.querySelector(".heat").hidden;
    times.push(drawn ? performance.now() - start : Infinity);
    button.dispatchEvent(new PointerEvent("pointerout", { pointerType: "mouse", bubbles: true }));
  }
  return times;
}"""


def in_browser(address: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds from address to usable, from the upload's end to the first word, and from hover to heatmap."""
    found: dict[str, list[float]] = {"usable": [], "first word": [], "heatmap": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        for i in range(repeats):
            page = browser.new_page()
            page.set_default_timeout(SECONDS * 1000)
            start = time.perf_counter()
            page.goto(address)
            page.locator(".examples button").first.wait_for()
            found["usable"].append((time.perf_counter() - start) * 1000)
            page.evaluate(FIRST_WORD)
            page.locator("input.file").set_input_files(EXAMPLES[i % len(EXAMPLES)])
            page.locator(".key span").first.wait_for()
            found["first word"].append(page.evaluate(SINCE_UPLOAD))
            found["heatmap"] += page.evaluate(HOVERS)
            page.close()
        browser.close()
    return found


def idle(pid: int, seconds: float) -> tuple[float, float]:
    """The share of one core that a process takes while nobody asks, in percent, and its resident megabytes."""
    process = psutil.Process(pid)
    before, start = process.cpu_times(), time.perf_counter()
    time.sleep(seconds)
    after, took = process.cpu_times(), time.perf_counter() - start
    share = (after.user + after.system - before.user - before.system) / took
    return 100 * share, process.memory_info().rss / 1e6


def stopping(captioner: Captioner, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds from a stop to the start of the next one's work, and between two tokens of what was stopped."""
    waits: list[float] = []
    gaps: list[float] = []
    image = captioner.encode(EXAMPLES[0])
    with Engine(captioner) as engine:
        for _ in range(repeats):
            moments: list[float] = []
            writing = engine.caption("mine", image)
            begun = threading.Event()
            writing.watch(lambda moments=moments, begun=begun: note(moments, begun))
            begun.wait(SECONDS)
            start = time.perf_counter()
            engine.cancel("mine")
            waits.append(1000 * (engine.call("next", time.perf_counter).result(SECONDS) - start))
            gaps += [1000 * (b - a) for a, b in pairwise(moments)]
    return waits, gaps


def note(moments: list[float], begun: threading.Event) -> None:
    """A token is there; the second one says how long one takes."""
    moments.append(time.perf_counter())
    if len(moments) == 2:
        begun.set()


def measured(model: str | None, people: int, repeats: int, seconds: float) -> Iterator[Row]:
    """One row after the other, as soon as it is known; the bars are of a machine that does nothing else."""
    options = ("--model", model) if model else ()
    captioner = vlm.load(model) if model else vlm.load()
    start = time.perf_counter()
    with running_app(*options) as (address, pid):
        served = time.perf_counter() - start
        yield row("start", "from the command to its address", "s", [served], most=6)
        share, resident = idle(pid, seconds)
        yield row("idle", "processor, no visitor", "%", [share], most=1)
        yield row("idle", "resident memory, no visitor", "MB", [resident])
        seen = in_browser(address, repeats)
        yield row("page", "from address to usable", "ms", seen["usable"], most=2000)
        yield row("page", "from upload to first word", "ms", seen["first word"], most=300)
        yield row("page", "from hover to heatmap", "ms", seen["heatmap"], most=50)
        together = crowd(address, captioner, people)
        name = f"{people} people"
        yield row("crowd", f"{name}: captions of another's photo", "", [together.mixed], most=0)
        words = [visit.first_word or float("inf") for visit in together.visits]
        yield row("crowd", f"{name}: from photo to first word", "s", words)
        yield row("crowd", f"{name}: to caption and maps", "s", [v.end for v in together.visits])
        told = sum(bool(visit.places) for visit in together.visits)
        yield row("crowd", f"{name}: told a place in line", "", [told])
        done, took = together.folder
        yield row("crowd", f"a folder of {done} beside them", "s", [took])
        share, resident = idle(pid, seconds)
        yield row("idle", "processor, after all that", "%", [share], most=1)
        yield row("idle", "resident memory, after all that", "MB", [resident])
    waits, gaps = stopping(captioner, 2 * repeats)
    yield row("stop", "until the next one's turn", "ms", waits, most=round(max(gaps), 1))


def row(part: str, name: str, unit: str, values: Sequence[float], most: float | None = None) -> Row:
    return Row(part, name, unit, Spread.of(values), most=most)


@app.command()
def visitors(
    model: Annotated[
        str | None, typer.Option(help="By default the bundled model.", show_default=False)
    ] = None,
    people: Annotated[int, typer.Option(min=1, help="At the same time.")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="Pages that are opened in a browser.")] = 5,
    seconds: Annotated[float, typer.Option(help="That an idle app is watched for.")] = 20,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Where the figures go as JSON.")
    ] = None,
) -> None:
    """Start the app, visit it, and print what that took; a stop's bar is the longest time between two tokens."""
    rows = []
    for found in measured(model, people, repeats, seconds):
        print(f"{found.part}: {found.name}", file=sys.stderr, flush=True)
        rows.append(found)
    processor = f"{cpu_name()}, {os.cpu_count()} cores"
    table = Table("", "median", "highest", "bar", title=f"{date.today()}, {processor}")
    for found in rows:
        met = [f"{bar} {'met' if kept else 'missed'}" for bar, kept in found.bars()]
        values = (f"{value:.3g} {found.unit}" for value in (found.ours.median, found.ours.high))
        table.add_row(f"{found.part}: {found.name}", *values, *met)
    Console().print(table)
    if json_file is not None:
        record = {"processor": processor, "rows": [found.as_record() for found in rows]}
        json_file.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    app()
