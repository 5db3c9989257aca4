"""Fifty people at once, and one who captions a folder: nobody gets another's words, and who waits is told so."""

from __future__ import annotations

from pathlib import Path

import vlm
from benchmarks.visitors import crowd

PEOPLE = 50
FOLDER = 24  # photos: three turns of the engine


def test_of_fifty_people_each_gets_the_own_photos_caption(
    app_address: str, tiny_checkpoint: Path
) -> None:
    seen = crowd(app_address, vlm.load(tiny_checkpoint), PEOPLE, FOLDER)
    assert seen.mixed == 0
    assert len({tuple(caption) for caption in seen.planted}) > PEOPLE / 2
    assert all(visit.view["message"] is None for visit in seen.visits)
    # Most had to wait, saw how many come before them, and moved up.
    told = [visit.places for visit in seen.visits if visit.places]
    assert len(told) > PEOPLE / 2
    assert max(map(max, told)) <= PEOPLE
    assert all(places[-1] < PEOPLE for places in told)
    assert seen.folder[0] == FOLDER
