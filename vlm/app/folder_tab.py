"""The Folder tab: captions of many photos, looked through and mended before anything is written."""

from __future__ import annotations

import base64
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakValueDictionary

import gradio as gr
from gradio.utils import get_upload_folder

from vlm.app.folder_files import TABLES, example, taken_in, written
from vlm.app.folder_rows import Change, Query, Row, Sheet, SheetError
from vlm.app.scripts import script
from vlm.engine import TURN, Cancelled, Engine
from vlm.errors import UserError
from vlm.folder.beside import Existing
from vlm.folder.photo_metadata import Place
from vlm.folder.pipeline import caption_files
from vlm.folder.wording import Wording
from vlm.folder.written import Said, Where
from vlm.images import ImageError, load_image
from vlm.images.files import LeftOut
from vlm.options import CAPTION, choose

PAGE = 25  # rows in sight
PREVIEWED = 50  # changes that a preview shows
THUMBNAIL_SIZE = 160  # pixels of the longer side
MAX_CAPTIONS = 5  # of one photo
NAMED = 20  # problems that are shown; the number says how many there are

View = dict[str, Any]
Told = tuple[str, View]
"""A sentence on the page: a key of `strings.json`, and the values of its gaps."""

log = logging.getLogger(__name__)


class FolderPage:
    """What one visitor's Folder tab holds. Its files are deleted when nobody refers to it any more."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.sheet = Sheet()
        self.query = Query()
        self.at = 0  # the page of rows in sight
        self.preview: list[Change] = []
        self.folder: TemporaryDirectory[str] | None = None
        self.thumbnails: dict[str, str] = {}
        self.problems: list[str] = []
        # The owners of what runs in the engine: of this tab, and of Compare, see `vlm.app.folder_compare`.
        self.run: object | None = None
        self.comparing: object | None = None
        self.progress: View | None = None
        self.wording = Wording()
        self.version = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> FolderPage:
        """Gradio gives each session a copy of the first page, which is empty."""
        return FolderPage()

    @property
    def home(self) -> Path:
        """Where the photos lie."""
        if self.folder is None:
            self.folder = TemporaryDirectory(dir=get_upload_folder(), ignore_cleanup_errors=True)
            (Path(self.folder.name) / "photos").mkdir()
        return Path(self.folder.name) / "photos"

    def view(self, message: str = "", told: Sequence[Told] = (), file: View | None = None) -> View:
        """What the browser is sent: all that is in sight. A `version` that is lower than another's is older.

        A `message` says what went wrong, as a sentence or a key of `strings.json`, and `told` what was done.
        """
        with self.lock:
            self.version += 1
            numbers = self.sheet.shown(self.query)
            self.at = min(self.at, max(0, (len(numbers) - 1) // PAGE))
            here = numbers[self.at * PAGE : (self.at + 1) * PAGE]
            captioned = sum(row.said is not None for row in self.sheet.rows)
            return {
                "version": self.version,
                "message": message,
                "told": [[key, values] for key, values in told],
                "progress": self.progress,
                "total": len(self.sheet.rows),
                "captioned": captioned,
                "edited": sum(row.edited for row in self.sheet.rows),
                "found": len(numbers),
                "page": self.at,
                "pages": max(1, -(-len(numbers) // PAGE)),
                "rows": [self._row(number) for number in here],
                "changes": len(self.preview),
                "preview": [
                    {"name": self.sheet.rows[c.row].name, "before": c.before, "after": c.after}
                    for c in self.preview[:PREVIEWED]
                ],
                "undo": self.sheet.can_undo,
                "example": example(self.sheet.rows, self.wording),
                "problems": self.problems[:NAMED],
                "failed": len(self.problems),
                "file": file,
            }

    def _row(self, number: int) -> View:
        row = self.sheet.rows[number]
        said = row.said
        return {
            "id": number,
            "name": row.name,
            "thumbnail": self._thumbnail(row),
            "caption": row.caption,
            "others": [] if said is None else list(said.texts[1:]),
            "edited": row.edited,
            "confidence": None if row.confidence is None else round(row.confidence, 4),
            "verdict": None if said is None else said.verdict,
            "problem": row.problem,
        }

    def thumbnails_of(self, names: Sequence[str]) -> list[str]:
        """The thumbnails of rows by their names."""
        with self.lock:
            rows = {row.name: row for row in self.sheet.rows}
            return [self._thumbnail(rows[name]) if name in rows else "" for name in names]

    def _thumbnail(self, row: Row) -> str:
        """A small JPEG as a data URL; empty for what cannot be read."""
        if row.path not in self.thumbnails:
            self.thumbnails[row.path] = _thumbnail(row.path)
        return self.thumbnails[row.path]


def folder_tab(engine: Engine, blocks: gr.Blocks) -> gr.State:
    """Add the tab's contents where a page is being built; the state holds what each visitor's tab has."""
    pages: WeakValueDictionary[str | None, FolderPage] = WeakValueDictionary()  # by session
    page = gr.State(FolderPage())
    table = gr.HTML(
        page.value.view() | {"version": 0},  # older than each session's first
        html_template="",
        js_on_load=script("folder_tab.html", ["folder_tab.css"], ["text.js", "folder_tab.js"]),
        apply_default_css=False,
        elem_id="vlm-folder-table",
    )
    handlers: dict[str, Callable[[Engine, FolderPage, gr.EventData], Iterator[View]]] = {
        "bring": bring,
        "describe": describe_rows,
        "halt": halt,
        "query": look_for,
        "edit": edit,
        "preview": preview,
        "replace": replace_all,
        "undo": undo,
        "write": write,
        "empty": empty,
    }
    for name, handler in handlers.items():
        getattr(table, name)(
            _guarded(engine, handler, pages),
            page,
            table,
            trigger_mode="multiple",
            concurrency_limit=None,
            show_progress="hidden",
            api_visibility="private",
        )

    def on_leaving(request: gr.Request) -> None:
        if left := pages.get(request.session_hash):
            _stop(engine, left)

    blocks.unload(on_leaving)
    return page


def _guarded(
    engine: Engine,
    handler: Callable[[Engine, FolderPage, gr.EventData], Iterator[View]],
    pages: MutableMapping[str | None, FolderPage],
) -> Callable[[gr.EventData, FolderPage, gr.Request], Iterator[View]]:
    """What a user can put right is a sentence on the page; a defect is one, too, and a line in the log."""

    def guarded(event: gr.EventData, page: FolderPage, request: gr.Request) -> Iterator[View]:
        pages[request.session_hash] = page
        try:
            yield from handler(engine, page, event)
        except UserError as error:
            yield page.view(message=_sentence(str(error)))
        except Exception:
            log.exception("the Folder tab failed to %s", handler.__name__)
            yield page.view(message="defect")

    return guarded


def bring(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Add files, folders and zips that were uploaded; photos that are there already stay as they are."""
    uploads = Path(get_upload_folder()).resolve()
    files = [(Path(file["path"]).resolve(), str(file["name"])) for file in event.files]
    if not all(path.is_relative_to(uploads) for path, _ in files):
        raise SheetError("only files that were uploaded can be captioned")
    left_out, problems = LeftOut(), list[str]()
    names = taken_in(files, page.home, left_out, problems)
    with page.lock:
        known = {row.name for row in page.sheet.rows}
        new = [Row(name, str(page.home / name)) for name in names if name not in known]
        page.sheet.rows += new
        page.problems = problems
    if not page.sheet.rows:
        raise SheetError("; ".join([*problems, "there is no photo among these files"]))
    told: list[Told] = [("more photos", {"count": len(new)})]
    if left_out:
        told.append((_sentence(str(left_out)), {}))
    yield page.view(told=told)


def describe_rows(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Caption the chosen rows anew or, without a choice, those that have no caption, batch by batch."""
    chosen, captions = event.rows, int(event.captions)
    if not 1 <= captions <= MAX_CAPTIONS:
        raise SheetError(f"a photo can have 1 to {MAX_CAPTIONS} captions here")
    engine.captioner.prompt(None)
    options: dict[str, Any] = {"candidates": captions}
    if event.chance:
        options |= {"sample": True, "top_p": 0.9}
    owner = object()
    with page.lock:
        if page.run is not None:
            raise SheetError("captions are being written; stop that first")
        rows = page.sheet.rows
        numbers = [n for n, row in enumerate(rows) if row.said is None]
        if chosen:
            numbers = [n for n in map(int, chosen) if 0 <= n < len(rows)]
        if not numbers:
            raise SheetError("all photos have a caption; choose rows to write theirs anew")
        page.run, page.problems = owner, []
        page.progress = {"done": 0, "of": len(numbers), "left": None}
    yield page.view()
    try:
        yield from _captioned(engine, page, owner, numbers, options)
    except Cancelled:
        pass  # what is done stays
    finally:
        with page.lock:
            if page.run is owner:
                page.run = page.progress = None
    yield page.view(told=_summary(page, numbers))


def _captioned(
    engine: Engine,
    page: FolderPage,
    owner: object,
    numbers: Sequence[int],
    options: dict[str, Any],
) -> Iterator[View]:
    rows = page.sheet.rows
    of_path = {rows[number].path: number for number in numbers}
    problems: list[str] = []
    start = shown = time.monotonic()
    chosen = choose(CAPTION, options)
    found = caption_files(
        engine.captioner,
        lambda work: engine.call(owner, lambda: engine.traced(work(), chosen)),
        of_path,
        problems,
        size=TURN,
        **options,
    )
    for done, (path, answer) in enumerate(found, start=1):
        now = time.monotonic()
        with page.lock:
            if page.run is not owner:
                raise Cancelled
            page.sheet.said(of_path[path], Said.of(answer))
            past = done + len(problems)
            left = (now - start) / past * (len(numbers) - past)
            page.progress = {"done": past, "of": len(numbers), "left": round(left)}
        if now - shown > 0.5:
            shown = now
            yield page.view()
    with page.lock:
        for number in numbers:
            row = page.sheet.rows[number]
            told = [p for p in problems if p.startswith((f"{row.path} ", f"{row.path}:"))]
            if told:
                page.sheet.failed(number, _sentence(told[0].replace(row.path, row.name)))
        home = f"{page.home}/"
        page.problems = [_sentence(problem.replace(home, "")) for problem in problems]


def _summary(page: FolderPage, numbers: Sequence[int]) -> list[Told]:
    rows = [page.sheet.rows[number] for number in numbers]
    done = sum(row.said is not None for row in rows)
    failed = sum(row.problem is not None for row in rows)
    told: list[Told] = [("have captions", {"done": done, "total": len(numbers)})]
    if failed:
        told.append(("unreadable", {"count": failed}))
    return told


def halt(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Stop writing captions; those that are done stay."""
    _stop(engine, page)
    yield page.view()


def _stop(engine: Engine, page: FolderPage) -> None:
    with page.lock:
        owner, page.run, page.progress = page.run, None, None
    if owner is not None:
        engine.cancel(owner)


def look_for(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Show the rows that are asked for."""
    query = Query.of(event.query)
    with page.lock:
        page.query, page.at, page.preview = query, max(0, int(event.page)), []
    yield page.view()


def edit(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Change one caption."""
    with page.lock:
        page.sheet.edit(int(event.row), str(event.caption))
        page.preview = []
    yield page.view()


def preview(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Say what find and replace would change in the rows that match the query."""
    with page.lock:
        page.preview = _replacements(page, event)
    yield page.view(told=[("would be changed", {"count": len(page.preview)})])


def replace_all(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Find and replace in the rows that match the query."""
    with page.lock:
        changes = _replacements(page, event)
        page.sheet.apply(changes)
        page.preview = []
    yield page.view(told=[("were changed", {"count": len(changes)})])


def _replacements(page: FolderPage, event: gr.EventData) -> list[Change]:
    numbers = page.sheet.shown(page.query)
    return page.sheet.replacements(numbers, str(event.find), str(event.by), bool(event.regular))


def undo(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Take back the last edit, or the last find and replace."""
    with page.lock:
        taken = page.sheet.undo()
        page.preview = []
    yield page.view(told=[("taken back", {"count": taken})])


def write(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Write what is asked for, or with `example` only show how it would read."""
    page.wording = Wording(str(event.prefix), str(event.suffix), str(event.trigger))
    if event.example:
        yield page.view()
        return
    kinds = set(event.kinds)
    tables = [kind for kind in TABLES if kind in kinds]
    places = [place for place in Place if place in kinds]
    if len(places) > 1:
        raise SheetError("choose XMP beside the photos or in them")
    where = Where(
        texts=Existing(event.existing) if "txt" in kinds else None,
        metadata=places[0] if places else None,
        overwrite=event.existing == Existing.overwrite,
        wording=page.wording,
    )
    problems: list[str] = []
    packed = written(page.sheet.rows, where, tables, page.home.parent, problems)
    page.problems = [_sentence(p.replace(f"{packed.parent / 'written'}/", "")) for p in problems]
    file = gr.FileData(path=served_file(packed), orig_name=packed.name).model_dump()
    yield page.view(told=[("ready", {"name": packed.name})], file=file)


def served_file(file: Path) -> str:
    """Where Gradio lets the browser fetch a file."""
    from gradio.processing_utils import save_file_to_cache

    return save_file_to_cache(file, get_upload_folder())


def empty(engine: Engine, page: FolderPage, event: gr.EventData) -> Iterator[View]:
    """Let all photos and captions go."""
    _stop(engine, page)
    with page.lock:
        version = page.version
        fresh = FolderPage()
        fresh.lock = page.lock
        page.__dict__.update(fresh.__dict__, version=version)
    yield page.view()


def _thumbnail(path: str) -> str:
    try:
        picture = load_image(path).copy()
    except ImageError:
        return ""
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."
