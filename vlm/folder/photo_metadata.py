"""Descriptions in a photo's XMP metadata, in a file beside the photo or in the photo itself.

`dc:description` is the caption that photo programs show, and `Iptc4xmpCore:AltTextAccessibility` (IPTC Photo Metadata
Standard 2021.1) what a screen reader says in the photo's place. exiv2 reads and writes both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from vlm import __version__
from vlm.errors import UserError, how_to_install
from vlm.folder.beside import write_whole

DESCRIPTION = "Xmp.dc.description"
ALT_TEXT = "Xmp.iptc.AltTextAccessibility"
WRITER = "Xmp.photoshop.CaptionWriter"  # who wrote the description, in IPTC's words
SOURCE = "Xmp.iptcExt.DigitalSourceType"
# A photo to whose file a generative model added something. "trainedAlgorithmicMedia" would say of the photo itself that
# it was generated: https://cv.iptc.org/newscodes/digitalsourcetype/
MACHINE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
DEFAULT = 'lang="x-default"'
# Where a description stood before there was XMP, and still may.
OLDER = ("Exif.Image.ImageDescription", "Iptc.Application2.Caption")
EMPTY = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
)


class MetadataError(UserError):
    """Metadata that cannot be read or written."""


class Place(StrEnum):
    """Where metadata is written: into a file beside the photo, or into the photo's own."""

    sidecar = "sidecar"
    embed = "embed"


def sidecar(photo: str) -> Path:
    """The XMP file of a photo: `photo.xmp` where there is one, as Adobe's programs name it, else `photo.jpg.xmp`.

    The longer name, of digiKam and darktable, keeps `photo.jpg` and `photo.png` apart.
    """
    short, long = Path(photo).with_suffix(".xmp"), Path(f"{photo}.xmp")
    return short if short.exists() and not long.exists() else long


def check_installed() -> None:
    """Raise MetadataError where the library is missing."""
    try:
        import pyexiv2  # noqa: F401
    except ImportError:
        raise MetadataError(
            f"photos' metadata needs the package pyexiv2; {how_to_install('metadata')}"
        ) from None


def missing(photo: str, place: Place) -> tuple[str, ...]:
    """Which of DESCRIPTION and ALT_TEXT a photo lacks, in itself and, with `Place.sidecar`, beside itself, too.

    Raises MetadataError where a sidecar cannot be read.
    """
    embedded = read_embedded(photo, [])  # a photo whose metadata cannot be read says nothing
    beside = read_sidecar(sidecar(photo)) if place is Place.sidecar else {}
    held = {name for part in (embedded, beside) for name in part if _says_something(part[name])}
    if held.intersection(OLDER):
        held.add(DESCRIPTION)
    return tuple(name for name in (DESCRIPTION, ALT_TEXT) if name not in held)


def write_metadata(
    photo: str, caption: str, alt_text: str, place: Place, overwrite: bool, problems: list[str]
) -> None:
    """Write a description and an alternative text, each where there is none, or over what there is.

    Other languages than the default stay, and so does all else. A photo that is written to keeps its compressed image
    data, dates and permissions. What cannot be written is added to `problems`.
    """
    try:
        names = (DESCRIPTION, ALT_TEXT) if overwrite else missing(photo, place)
        texts = {name: caption if name == DESCRIPTION else alt_text for name in names}
        if not texts:
            return
        if place is Place.sidecar:
            path = sidecar(photo)
            old = path.read_bytes() if path.exists() else EMPTY
            write_whole(path, _changed(old, texts, str(path)), problems)
        else:
            path = Path(os.path.realpath(photo))
            write_whole(path, _changed(path.read_bytes(), texts, photo), problems, like=path)
    except OSError as error:
        problems.append(f"{error.filename or photo} cannot be read: {error.strerror}")
    except MetadataError as error:
        problems.append(str(error))


def _changed(data: bytes, texts: Mapping[str, str], name: str) -> bytes:
    """A photo or sidecar with texts in its metadata."""
    import pyexiv2

    pyexiv2.set_log_level(4)  # what it warns of is the metadata of others
    try:
        with pyexiv2.ImageData(data) as image:
            old = image.read_xmp()
            new: dict[str, Any] = {
                # The default language comes first, as XMP wants it.
                key: {DEFAULT: text} | _other_languages(old.get(key))
                for key, text in texts.items()
            }
            new.setdefault(SOURCE, old.get(SOURCE) or MACHINE)
            if DESCRIPTION in texts:
                new[WRITER] = f"vlm {__version__}"
            image.modify_xmp(new)
            return image.get_bytes()
    except Exception as error:  # exiv2 raises RuntimeError, and for some files others
        raise MetadataError(
            f"{name} takes no metadata ({_reason(error)}); write a sidecar instead"
            if not name.endswith(".xmp")
            else f"{name} cannot be read as XMP ({_reason(error)}); mend it or move it away"
        ) from None


def read_embedded(photo: str, problems: list[str]) -> dict[str, Any]:
    """What a photo's own metadata says, EXIF, IPTC and XMP, by exiv2's names of its parts.

    What cannot be read is a sentence in `problems`, and leaves the rest.
    """
    import pyexiv2

    pyexiv2.set_log_level(4)
    found: dict[str, Any] = {}
    try:
        with pyexiv2.ImageData(Path(photo).read_bytes()) as image:
            reads = {"EXIF": image.read_exif, "IPTC": image.read_iptc, "XMP": image.read_xmp}
            for kind, read in reads.items():
                own: dict[str, Any] = {}
                with suppress(Exception):
                    own = _decoded(read(encoding="latin-1"))
                if not own and kind in _kinds_held(photo):
                    problems.append(f"{photo}: its {kind} metadata is damaged and left out")
                found |= own
    except OSError as error:
        problems.append(f"{photo} cannot be read: {error.strerror or error}")
    except Exception as error:  # exiv2 raises RuntimeError, and for some files others
        problems.append(f"{photo}: its metadata cannot be read ({_reason(error)})")
    return found


def _kinds_held(photo: str) -> set[str]:
    """Which kinds of metadata a photo has bytes of, whatever these are."""
    from PIL import Image

    with suppress(Exception), Image.open(photo) as image:
        return {kind for kind in ("EXIF", "XMP") if image.info.get(kind.lower())}
    return set()


def _decoded(value: Any) -> Any:
    """Texts of bytes, one a letter, as UTF-8 or, where older programs wrote them, as Windows' Latin letters."""
    if isinstance(value, dict):
        return {key: _decoded(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_decoded(own) for own in value]
    data = str(value).encode("latin-1")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def read_sidecar(path: Path) -> dict[str, Any]:
    """What a sidecar says, nothing where there is none. Raises MetadataError where it cannot be read."""
    import pyexiv2

    pyexiv2.set_log_level(4)
    if not path.exists():
        return {}
    try:
        with pyexiv2.ImageData(path.read_bytes()) as image:
            return image.read_xmp()
    except Exception as error:
        raise MetadataError(
            f"{path} cannot be read as XMP ({_reason(error)}); mend it or move it away"
        ) from None


def _says_something(value: Any) -> bool:
    texts = value.values() if isinstance(value, dict) else [value]
    return any(str(text).strip() for text in texts)


def _other_languages(value: Any) -> dict[str, str]:
    return {k: v for k, v in value.items() if k != DEFAULT} if isinstance(value, dict) else {}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
