"""Descriptions in XMP, beside photos and in them, as exiftool reads them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from vlm.cli import app
from vlm.folder.photo_metadata import MACHINE, Place, missing, sidecar, write_metadata

EXAMPLE = Path(__file__).resolve().parent.parent / "assets" / "examples" / "dog.jpg"
CAPTION, ALT = 'a <brown> dog & "cat", größer', "a dog runs"


@pytest.fixture(scope="module")
def exiftool():
    """What exiftool reads and writes; without it the test is skipped, and in CI fails."""
    program = shutil.which("exiftool")
    if program is None:
        reason = "no exiftool on this machine; `make exiftool` installs it for root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    def run(*arguments) -> dict[str, str]:
        command = [program, "-json", "-G1", "-a", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)[0] if done.stdout.startswith("[") else {}

    return run


@pytest.fixture(params=["JPEG", "PNG", "WEBP", "TIFF"])
def photo(request, tmp_path):
    path = tmp_path / f"a photo.{request.param.lower()}"
    with Image.open(EXAMPLE) as image:
        image.resize((64, 48)).save(path, request.param)
    os.utime(path, (1_000_000_000, 1_100_000_000))
    path.chmod(0o640)
    return path


def image_data(path: Path) -> bytes:
    """The compressed image data, without what the format puts around it."""
    data = path.read_bytes()
    with Image.open(path) as image:
        kind = image.format
        if kind == "TIFF":
            starts, sizes = image.tag_v2[273], image.tag_v2[279]
            return b"".join(data[start : start + size] for start, size in zip(starts, sizes))
    if kind == "JPEG":  # the tables before the scan, too
        start = data.index(b"\xff\xdb")
        return data[start:]
    if kind == "PNG":
        return data[data.index(b"IDAT") : data.index(b"IEND")]
    start = data.index(b"VP8 ")
    return data[start : start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")]


def test_a_sidecar_says_it_all_and_the_photo_stays_as_it_was(photo, exiftool):
    before, problems = photo.read_bytes(), []
    write_metadata(str(photo), CAPTION, ALT, Place.sidecar, False, problems)
    assert problems == []
    assert photo.read_bytes() == before
    assert photo.stat().st_mtime == 1_100_000_000
    told = exiftool(f"{photo}.xmp")
    assert told["XMP-dc:Description"] == CAPTION
    assert told["XMP-iptcCore:AltTextAccessibility"] == ALT
    assert told["XMP-iptcExt:DigitalSourceType"] == MACHINE
    assert told["XMP-photoshop:CaptionWriter"].startswith("vlm ")
    assert Path(f"{photo}.xmp").read_text().count('xml:lang="x-default"') == 2


def test_embedding_changes_no_pixel_and_no_date(photo, exiftool):
    before, problems = image_data(photo), []
    write_metadata(str(photo), CAPTION, ALT, Place.embed, False, problems)
    assert problems == []
    assert image_data(photo) == before
    assert photo.stat().st_mtime == 1_100_000_000
    assert photo.stat().st_mode & 0o777 == 0o640
    told = exiftool(photo)
    assert told["XMP-dc:Description"] == CAPTION
    assert told["XMP-iptcCore:AltTextAccessibility"] == ALT
    assert told["XMP-iptcExt:DigitalSourceType"] == MACHINE
    assert "Warning" not in " ".join(told)
    assert list(photo.parent.iterdir()) == [photo]


def test_what_stands_behind_a_jpeg_stays(tmp_path):
    """Phones put a film or a second picture there."""
    path = Path(shutil.copy(EXAMPLE, tmp_path / "a.jpg"))
    with path.open("ab") as file:
        file.write(b"a film" * 100)
    before = image_data(path)
    write_metadata(str(path), CAPTION, ALT, Place.embed, False, [])
    assert image_data(path) == before


@pytest.mark.parametrize("place", list(Place))
@pytest.mark.parametrize(
    "tag",
    [
        "-XMP-dc:Description=mine",
        "-XMP-dc:Description-de=mein",
        "-IFD0:ImageDescription=mine",
        "-IPTC:Caption-Abstract=mine",
    ],
)
def test_what_a_person_wrote_stays_until_it_is_to_be_replaced(tmp_path, exiftool, tag, place):
    path = Path(shutil.copy(EXAMPLE, tmp_path / "a.jpg"))
    exiftool("-overwrite_original", tag, "-XMP-iptcExt:DigitalSourceType=x:camera", path)
    target = path if place is Place.embed else sidecar(str(path))

    write_metadata(str(path), CAPTION, ALT, place, False, [])
    told = exiftool(target)
    assert told.get("XMP-dc:Description") != CAPTION
    assert "XMP-photoshop:CaptionWriter" not in told
    assert told["XMP-iptcCore:AltTextAccessibility"] == ALT
    assert missing(str(path), place) == ()

    write_metadata(str(path), CAPTION, "other", place, True, [])
    told = exiftool(target)
    assert told["XMP-dc:Description"] == CAPTION
    assert told["XMP-iptcCore:AltTextAccessibility"] == "other"
    if place is Place.embed:
        assert told["XMP-iptcExt:DigitalSourceType"] == "x:camera"
        if "-de" in tag:
            german = exiftool("-XMP-dc:Description-de", path)
            assert german["XMP-dc:Description-de"] == "mein"


def test_a_sidecar_of_another_program_is_added_to(tmp_path, exiftool):
    path = Path(shutil.copy(EXAMPLE, tmp_path / "a.jpg"))
    own = tmp_path / "a.xmp"
    exiftool("-XMP-xmp:Rating=4", "-XMP-dc:Subject=holiday", "-o", own, "-tagsFromFile", path)
    write_metadata(str(path), CAPTION, ALT, Place.sidecar, False, [])
    told = exiftool(own)
    assert (told["XMP-xmp:Rating"], told["XMP-dc:Subject"]) == (4, "holiday")
    assert told["XMP-dc:Description"] == CAPTION
    assert not Path(f"{path}.xmp").exists()


@pytest.mark.parametrize("name", ["a.gif", "a.bmp", "a.avif"])
def test_a_format_without_metadata_is_told_and_left(tmp_path, name):
    path = tmp_path / name
    with Image.open(EXAMPLE) as image:
        image.resize((64, 48)).save(path)
    before, problems = path.read_bytes(), []
    write_metadata(str(path), CAPTION, ALT, Place.embed, False, problems)
    assert path.read_bytes() == before
    assert "write a sidecar instead" in problems[0]
    write_metadata(str(path), CAPTION, ALT, Place.sidecar, False, problems)
    assert len(problems) == 1
    assert missing(str(path), Place.sidecar) == ()


def test_a_sidecar_that_is_none_is_told_and_left(tmp_path):
    path = Path(shutil.copy(EXAMPLE, tmp_path / "a.jpg"))
    (tmp_path / "a.jpg.xmp").write_text("<x>")
    for overwrite in (False, True):
        problems = []
        write_metadata(str(path), CAPTION, ALT, Place.sidecar, overwrite, problems)
        assert "cannot be read as XMP" in problems[0]
    assert (tmp_path / "a.jpg.xmp").read_text() == "<x>"


def test_the_command_line_writes_what_is_missing(tmp_path, tiny_checkpoint, exiftool):
    for name in ("1.jpg", "2.jpg"):
        shutil.copy(EXAMPLE, tmp_path / name)
    exiftool("-overwrite_original", "-XMP-dc:Description=mine", tmp_path / "2.jpg")

    def run(*options):
        command = ["caption", str(tmp_path), "--model", str(tiny_checkpoint), *options]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        return result

    run("--xmp", "sidecar", "--trigger", "sks")
    first = exiftool(tmp_path / "1.jpg.xmp")
    assert first["XMP-dc:Description"] == "sks, " + first["XMP-iptcCore:AltTextAccessibility"]
    second = exiftool(tmp_path / "2.jpg.xmp")
    assert "XMP-dc:Description" not in second
    assert second["XMP-iptcCore:AltTextAccessibility"]
    assert "2 of 2 photos have all already" in run("--xmp", "sidecar").stderr
    run("--xmp", "embed")
    assert exiftool(tmp_path / "2.jpg")["XMP-dc:Description"] == "mine"
    run("--xmp", "embed", "--overwrite")
    assert exiftool(tmp_path / "2.jpg")["XMP-dc:Description"] != "mine"


def test_the_library_is_asked_for_by_name(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyexiv2", None)
    path = shutil.copy(EXAMPLE, tmp_path / "1.jpg")
    result = CliRunner().invoke(app, ["caption", str(path), "--xmp", "sidecar"])
    assert result.exit_code == 2
    assert ".[metadata]" in result.stderr
