"""Fifty people at once, and one who captions a folder: nobody gets another's words, or waits for the folder."""

from __future__ import annotations

from pathlib import Path

import vlm
from benchmarks.visitors import crowd

PEOPLE = 50
FOLDER = 96  # photos: many times what one turn of the engine takes


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
    # The folder is done, and takes as long beside so many: its batches have turns like everybody's requests.
    captioned, seconds = seen.folder
    assert captioned == FOLDER
    assert sorted(visit.first_word or 1e9 for visit in seen.visits)[PEOPLE // 2] < seconds
