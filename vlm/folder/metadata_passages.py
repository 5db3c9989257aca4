"""What a photo's metadata and names say, as sentences that can stand beside it as documents do."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import regex

from vlm.documents.passages import Passage, cut
from vlm.errors import UserError
from vlm.folder.gazetteer import Town, towns_near
from vlm.folder.photo_metadata import (
    DEFAULT,
    DESCRIPTION,
    WRITER,
    MetadataError,
    check_installed,
    read_embedded,
    read_sidecar,
    sidecar,
)
from vlm.folder.taken import date_in_words, position

# Of each, the first that says something counts.
_TITLE = ("Xmp.dc.title", "Iptc.Application2.ObjectName", "Exif.Image.XPTitle")
_HEADLINE = ("Xmp.photoshop.Headline", "Iptc.Application2.Headline")
_DESCRIPTION = (
    DESCRIPTION,
    "Iptc.Application2.Caption",
    "Exif.Image.ImageDescription",
    "Exif.Photo.UserComment",
    "Exif.Image.XPComment",
)
_DATES = {
    "taken": (
        "Exif.Photo.DateTimeOriginal",
        "Xmp.exif.DateTimeOriginal",
        "Xmp.photoshop.DateCreated",
        "Iptc.Application2.DateCreated",
    ),
    "digitised": ("Exif.Photo.DateTimeDigitized", "Xmp.exif.DateTimeDigitized"),
    "saved": ("Exif.Image.DateTime", "Xmp.xmp.ModifyDate"),
}
_WRITTEN_PLACE = (
    ("Xmp.iptc.Location", "Iptc.Application2.SubLocation"),
    ("Xmp.photoshop.City", "Iptc.Application2.City"),
    ("Xmp.photoshop.State", "Iptc.Application2.ProvinceState"),
    ("Xmp.photoshop.Country", "Iptc.Application2.CountryName"),
)
# All of these count.
_TAGS = ("Xmp.dc.subject", "Iptc.Application2.Keywords", "Exif.Image.XPKeywords")
_TAG_PATHS = ("Xmp.lr.hierarchicalSubject", "Xmp.digiKam.TagsList")
_PEOPLE = "Xmp.iptcExt.PersonInImage"
_FACES = re.compile(r"Xmp\.(?:mwg-rs|MP)\..*:(?:Name|PersonDisplayName)")
# What cameras and phones call files, which says nothing: IMG_1234, DSC00017, IMG-20240503-WA0001, and numbers alone.
_CAMERA_NAME = re.compile(
    r"(?:_?(?:img|dsc[fn]?|pict?|mvimg|pxl|vid|cimg|imag|image|sam|dji|gopr|p)[-_ ]?)?[\d_\-.~() ]*(?:wa\d+)?"
    r"|[\da-f-]{16,}",
    re.IGNORECASE,
)
_CAMERA_DESCRIPTION = re.compile(
    r"(?:\w+ )?digital (?:still )?camera|sony dsc|dcim\S*", re.IGNORECASE
)
NEAR = 20  # km from the nearest town that are near it


class MetadataRead(NamedTuple):
    """A photo's metadata as passages, each with a source of its own, and a sentence on each part left out."""

    passages: list[Passage]
    problems: list[str]


def read_metadata(photo: str | Path, names: bool = True) -> MetadataRead:
    """What is written in a photo and in its sidecar, and what its file and folder are called, in plain sentences.

    The place by GPS and as somebody wrote it down, the date, title, people, tags, folder and file, and a description
    as it stands. Sources are called "the photo's place" and so on. A description that this program wrote is left out,
    since a model's own words are no evidence, and so is what a camera wrote there, or called the file. Without `names`
    the file and the folder are left out, too, as where they are a server's own.
    Raises MetadataError where the packages of the extra `metadata` are missing.
    """
    check_installed()
    photo = os.fspath(photo)
    problems: list[str] = []
    try:
        beside = read_sidecar(sidecar(photo))
    except (MetadataError, OSError) as error:
        problems.append(str(error))
        beside = {}
    # What stands beside a photo is newer, and counts first.
    parts = [part for part in (beside, read_embedded(photo, problems)) if part]
    said = {
        "the photo's place": _place(parts, photo, problems),
        "the photo's date": _date(parts, photo, problems),
        "the photo's title": _sentence("The photo's title is", _first(parts, _TITLE + _HEADLINE)),
        "the photo's people": _list("The photo shows", _people(parts)),
        "the photo's tags": _list("The photo is tagged", _tags(parts)),
    }
    if names:
        said |= {
            "the folder's name": _sentence("The photo is in a folder called", _folder_name(photo)),
            "the file's name": _sentence("The photo's file is called", _file_name(photo)),
        }
    passages = [Passage(text, source, None, 0, len(text)) for source, text in said.items() if text]
    passages += cut(_description(parts), "the photo's description")
    if not parts and not problems:
        problems.append(f"{photo} has no metadata")
    return MetadataRead(passages, problems)


def _place(parts: Sequence[Mapping[str, Any]], photo: str, problems: list[str]) -> str:
    sentences = []
    written = [text for names in _WRITTEN_PLACE if (text := _first(parts, names))]
    if written:
        sentences.append(_sentence("The photo's place is", ", ".join(dict.fromkeys(written))))
    for part in parts:
        try:
            if (found := position(part)) is not None:
                sentences.append(_near(towns_near(*found)))
                break
        except UserError as error:  # the gazetteer is missing
            problems.append(str(error))
            break
        except ValueError as error:
            problems.append(f"{photo}: its GPS position is left out: {error}")
    return " ".join(sentences)


def _near(towns: Sequence[Town]) -> str:
    """For example "The photo was taken near Ledeberg, Flanders, Belgium, 2 km from Gent."""
    nearest, *larger = towns
    place = ", ".join(part for part in dict.fromkeys(nearest[:3]) if part)
    where = "near" if nearest.km <= NEAR else f"{nearest.km:.0f} km from"
    known = "".join(f", {max(town.km, 1):.0f} km from {town.name}" for town in larger)
    return f"The photo was taken {where} {place}{known}."


def _date(parts: Sequence[Mapping[str, Any]], photo: str, problems: list[str]) -> str:
    for what, names in _DATES.items():
        for part in parts:
            for name in names:
                try:
                    if words := date_in_words(" ".join(_texts(part, name))):
                        return f"The photo was {what} {words}."
                except ValueError as error:
                    problems.append(f"{photo}: {error}, and is left out")
    return ""


def _people(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those whom somebody named, in the whole of the photo or at their faces."""
    names = [_PEOPLE, *(key for part in parts for key in part if _FACES.fullmatch(key))]
    return [text for part in parts for name in names for text in _texts(part, name)]


def _tags(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    tags = [tag for part in parts for name in _TAGS for tag in _texts(part, name)]
    paths = [path for part in parts for name in _TAG_PATHS for path in _texts(part, name)]
    return tags or [re.split(r"[|/]", path)[-1] for path in paths]


def _description(parts: Sequence[Mapping[str, Any]]) -> str:
    for part in parts:
        ours = _first([part], [WRITER]).startswith("vlm ")
        text = _first([part], [name for name in _DESCRIPTION if not (ours and name == DESCRIPTION)])
        if text and not _CAMERA_DESCRIPTION.fullmatch(text):
            return text
    return ""


def _folder_name(photo: str) -> str:
    return _spaced(os.path.basename(os.path.dirname(os.path.abspath(photo))))


def _file_name(photo: str) -> str:
    name = os.path.splitext(os.path.basename(photo))[0]
    return "" if _CAMERA_NAME.fullmatch(name) else _spaced(name)


def _spaced(name: str) -> str:
    """A name with its words apart; the hyphens of dates stay."""
    return _cleaned(re.sub(r"_|(?<!\d)-|-(?!\d)", " ", name))


def _first(parts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    return next((t for part in parts for name in names for t in _texts(part, name)), "")


def _texts(part: Mapping[str, Any], name: str) -> list[str]:
    """What a part of the metadata says: of lists all, of several languages the default or the first."""
    value = part.get(name, [])
    if isinstance(value, dict):
        value = value.get(DEFAULT) or next(iter(value.values()), "")
    values = value if isinstance(value, list) else [str(value)]
    if name.startswith(
        "Exif.Image.XP"
    ):  # Windows' parts are UTF-16, which exiv2 gives as numbers of bytes
        values = [text for value in values for text in _utf16(value).split(";")]
    return [text for value in values if (text := _cleaned(value))]


def _utf16(numbers: str) -> str:
    try:
        return bytes(map(int, numbers.split())).decode("utf-16-le", "replace")
    except ValueError:
        return ""


def _cleaned(text: str) -> str:
    """A text in one line, without the mark of a comment's encoding and what no encoding has."""
    text = re.sub(r"^charset=\S+ ", "", text).encode("utf-8", "replace").decode()
    return regex.sub(r"[\p{Cc}\s]+", " ", text).strip()


def _sentence(start: str, text: str) -> str:
    return f"{start} {text}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


def _list(start: str, names: Sequence[str]) -> str:
    *first, last = dict.fromkeys(names) or [""]
    return _sentence(start, f"{', '.join(first)} and {last}" if first else last)
