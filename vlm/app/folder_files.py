"""The files of the Folder tab: what people bring, as a folder on this machine, and what they take home, as a zip."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from vlm.app.folder_rows import Row, SheetError
from vlm.folder.beside import text_file
from vlm.folder.photo_metadata import Place, sidecar
from vlm.folder.wording import Wording
from vlm.folder.written import Said, Where
from vlm.images import is_image
from vlm.images.files import LeftOut, images_of

MAX_FILES = 20_000
MAX_UNPACKED = 4_000_000_000  # bytes of a zip; a small one may hold endless zeros
BESIDE = (".txt", ".xmp")  # what may lie beside a photo, and is added to
TABLES = {"csv": "captions.csv", "jsonl": "captions.jsonl", "metadata": "metadata.jsonl"}


def taken_in(
    files: Sequence[tuple[Path, str]], folder: Path, left_out: LeftOut, problems: list[str]
) -> list[str]:
    """Put files, each with the name that a person knows it by, and what zips hold into a folder; names of all photos.

    Names are relative to the folder, in natural order. What is hidden or neither a photo nor beside one is counted, and
    a sentence on what cannot be taken is added to `problems`. Raises SheetError where it is too much.
    """
    for source, name in files:
        if name.lower().endswith(".zip"):
            try:
                with zipfile.ZipFile(source) as archive:
                    _unpack(archive, folder, left_out)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError):
                # RuntimeError is of a password
                problems.append(
                    f"{name} cannot be unpacked; is it a whole zip, without a password?"
                )
        elif (place := _place(folder, name, left_out)) is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if len(names) > MAX_FILES:
        raise SheetError(f"{len(names):,} files are too many for the page; use vlm caption")
    return images_of((name for name in names if is_image(name)), left_out)


def _unpack(archive: zipfile.ZipFile, folder: Path, left_out: LeftOut) -> None:
    room = MAX_UNPACKED
    for entry in archive.infolist():
        place = None if entry.is_dir() else _place(folder, entry.filename, left_out)
        if place is None:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, place.open("wb") as target:
            while part := source.read(1 << 20):
                room -= len(part)  # the size in the archive's table may be untrue
                if room < 0:
                    raise SheetError(
                        f"the zip holds more than {MAX_UNPACKED // 10**9} GB; use vlm caption"
                    )
                target.write(part)


def _place(folder: Path, name: str, left_out: LeftOut) -> Path | None:
    """Where a file goes, never outside of the folder; None where it is not wanted."""
    parts = [p for p in PurePosixPath(name.replace("\\", "/")).parts if p not in ("/", "..", ".")]
    if not parts or any(part.startswith((".", "__MACOSX")) for part in parts):
        left_out["hidden"] += 1
        return None
    if not is_image(parts[-1]) and not parts[-1].lower().endswith(BESIDE):
        left_out.add(parts[-1])
        return None
    return folder.joinpath(*parts)


def example(rows: Sequence[Row], wording: Wording) -> str:
    """The first caption as it would be written."""
    row = next((row for row in rows if row.said is not None), None)
    return "" if row is None else wording(row.caption, row.path)


def written(
    rows: Sequence[Row], where: Where, tables: Sequence[str], folder: Path, problems: list[str]
) -> Path:
    """Write about the photos as the command line does, into copies, and pack that into a zip in `folder`.

    `where` says what is written beside and into photos, and `tables` names some of TABLES. Only photos that were
    written into are in the zip. Raises SheetError where there is nothing to write.
    """
    said = [row for row in rows if row.said is not None]
    if not said:
        raise SheetError("no photo has a caption yet")
    if not where and not tables:
        raise SheetError("choose what to write")
    home = folder / "written"
    shutil.rmtree(home, ignore_errors=True)
    for row in said:
        place = home / row.name
        place.parent.mkdir(parents=True, exist_ok=True)
        for source in (Path(row.path), text_file(row.path), sidecar(row.path)):
            target = place.with_name(source.name)
            if source.exists() and not target.exists():
                # Files are written anew and renamed, so the linked ones stay as they were.
                os.link(source, target)
    captions = max(len(row.said.texts) for row in said if row.said)
    for number, table in enumerate([None, *tables]):
        first = number == 0
        now = Where(
            None if table is None else home / TABLES[table],
            where.texts if first else None,
            where.metadata if first else None,
            where.overwrite,
            where.wording,
        )
        if not now:
            continue
        with now.open(captions) as writer:
            todo, _ = writer.sort_out([str(home / row.name) for row in said], problems)
            wanted = set(todo)
            for row in said:
                path = str(home / row.name)
                if path in wanted and row.said is not None:
                    writer.write(path, _edited(row, row.said), problems)
    packed = folder / "captions.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _worth_taking(home, where.metadata):
            archive.write(file, file.relative_to(home))
    return packed


def _edited(row: Row, said: Said) -> Said:
    return Said((row.caption, *said.texts[1:]), said.confidence, said.score, said.verdict)


def _worth_taking(home: Path, metadata: Place | None) -> Iterator[Path]:
    for path in sorted(home.rglob("*")):
        if path.is_file() and (metadata is Place.embed or not is_image(path.name)):
            yield path
