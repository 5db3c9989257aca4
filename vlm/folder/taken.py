"""When and where a photo was taken, from the EXIF and XMP that exiv2 reads."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

_DATE = re.compile(r"(\d{4})(?!\d)(?:\D(\d{1,2})(?:\D(\d{1,2})(?:[T ](\d{1,2}):(\d{1,2}))?)?)?")
# calendar's names are in the language of the machine.
_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September"]
_MONTHS += ["October", "November", "December"]
_NUMBER = r"(\d+(?:\.\d+)?)"
_XMP_ANGLE = re.compile(
    rf"{_NUMBER}(?:,{_NUMBER})?(?:,{_NUMBER})?\s*([NSEW])"
)  # XMP part 2, GPSCoordinate
_AXES = {"Latitude": ("NS", 90), "Longitude": ("EW", 180)}


def date_in_words(value: str) -> str | None:
    """A date of EXIF, IPTC or XMP, which may lack the day or the month: "on 3 May 2024 at 14:05", "in May 2024".

    None where it is blank or all zero, as cameras without a clock write it. Raises ValueError for what is no date.
    """
    if not re.search("[1-9]", value):
        return None
    match = _DATE.match(value.strip())
    if match is None:
        raise ValueError(f"the date {value!r} is none")
    year, month, day, hour, minute = (int(part or 0) for part in match.groups())
    try:
        datetime.datetime(year, month or 1, day or 1, hour, minute)
    except ValueError:
        raise ValueError(f"the date {value!r} is none") from None
    words = [str(day)] * bool(day and month) + _MONTHS[month - 1 : month] + [str(year)]
    if not (month and day):
        return f"in {' '.join(words)}"
    clock = f" at {hour}:{minute:02}" if match[4] else ""
    return f"on {' '.join(words)}{clock}"


def position(found: Mapping[str, Any]) -> tuple[float, float] | None:
    """Latitude and longitude in degrees, south and west below 0, or None where there is neither.

    Raises ValueError for a position that is incomplete or cannot be.
    """
    for angle, prefix in ((_exif_angle, "Exif.GPSInfo.GPS"), (_xmp_angle, "Xmp.exif.GPS")):
        if not any(prefix + axis in found for axis in _AXES):
            continue
        latitude, longitude = (angle(found, prefix + axis, *_AXES[axis]) for axis in _AXES)
        if latitude == longitude == 0:
            raise ValueError("the position is 0, 0, which devices write that know none")
        return latitude, longitude
    return None


def _exif_angle(found: Mapping[str, Any], name: str, signs: str, most: int) -> float:
    """Degrees, minutes and seconds as fractions, "51/1 3/1 1530/100"; the hemisphere stands in a part of its own."""
    try:
        parts = [Fraction(part) for part in str(found.get(name, "")).split()]
    except (ValueError, ZeroDivisionError):
        parts = []
    return _angle(parts, str(found.get(f"{name}Ref", "")), signs, most)


def _xmp_angle(found: Mapping[str, Any], name: str, signs: str, most: int) -> float:
    """Degrees, minutes and maybe seconds with the hemisphere's letter, "51,3.5N"."""
    match = _XMP_ANGLE.fullmatch(str(found.get(name, "")).strip())
    *parts, sign = match.groups() if match else ("",)
    return _angle([Fraction(part) for part in parts if part], sign, signs, most)


def _angle(parts: list[Fraction], sign: str, signs: str, most: int) -> float:
    """An angle in degrees of its parts, negative where the sign is the second of `signs`."""
    sign = sign.strip().upper()[:1]
    kind = "latitude" if signs == "NS" else "longitude"
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"the {kind} is missing or cannot be read")
    if not sign or sign not in signs:
        raise ValueError(f"the {kind} does not say whether it is {' or '.join(signs)}")
    degrees = float(sum(part / 60**power for power, part in enumerate(parts)))
    if degrees > most or any(part < 0 for part in parts) or any(part > 60 for part in parts[1:]):
        raise ValueError(f"the {kind} lies outside the globe")
    return -degrees if sign == signs[1] else degrees
