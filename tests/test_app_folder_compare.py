"""Two settings on a folder: each photo's texts are those of the settings alone, and how far they agree."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_app_page import REPOSITORY

from vlm.app.folder_compare import agree, shared, stop_agreeing
from vlm.app.folder_rows import Row
from vlm.app.folder_tab import FolderPage
from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.options import OptionError

EXAMPLES = REPOSITORY / "assets" / "examples"
NAMES = ("dog.jpg", "horses.jpg", "kitten.jpg")


@pytest.fixture(scope="module")
def engine(tiny: Captioner) -> Iterator[Engine]:
    with Engine(tiny) as engine:
        yield engine


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderPage:
    """A folder of three photos, and one that cannot be read."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = FolderPage()
    for name in NAMES:
        shutil.copy(EXAMPLES / name, page.home / name)
    (page.home / "broken.jpg").write_text("no photo")
    page.sheet.rows = [Row(name, str(page.home / name)) for name in ("broken.jpg", *NAMES)]
    return page


def side(beams: int) -> dict[str, object]:
    return {"model": "", "beams": beams, "method": "attention"}


@pytest.mark.parametrize("question", ["", "is there a dog?"])
def test_each_photo_has_what_both_settings_say_alone(
    tiny: Captioner, engine: Engine, page: FolderPage, question: str
) -> None:
    *_, last = agree({"": engine}, page, {"sides": [side(3), side(1)], "question": question})
    said = {}
    for name in NAMES:
        image = tiny.encode(EXAMPLES / name)
        found = [
            image.ask(question, beams=b) if question else image.caption(beams=b) for b in (3, 1)
        ]
        said[name] = tuple(answer.text for answer in found)
    assert {row["name"]: row["texts"] for row in last["rows"]} == said
    assert last["compared"] == 3
    assert last["failed"] == 1
    assert last["same"] == sum(first == second for first, second in said.values())
    shares = [row["share"] for row in last["rows"]]
    assert shares == sorted(shares)  # what agrees least comes first
    assert last["share"] == pytest.approx(sum(shares) / 3, abs=1e-4)
    with Path(last["file"]["path"]).open(newline="") as file:
        assert {r["image"]: (r["first"], r["second"]) for r in csv.DictReader(file)} == said


def test_a_setting_agrees_with_itself(engine: Engine, page: FolderPage) -> None:
    *_, last = agree({"": engine}, page, {"sides": [side(2), side(2)]})
    assert (last["same"], last["share"]) == (3, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ("a dog runs", "a dog runs", 1),
        ("a dog runs", "a brown dog sleeps", 0.5),
        ("dog a", "a dog", 0.5),  # in the same order
        ("a", "b", 0),
        ("", "a", 0),
        ("", "", 1),
    ],
)
def test_what_is_shared_is_in_the_same_order(first: str, second: str, share: float) -> None:
    assert shared(first.split(), second.split()) == share
    assert shared(second.split(), first.split()) == share


def test_what_is_done_when_it_is_stopped_is_shown(engine: Engine, page: FolderPage) -> None:
    views = agree({"": engine}, page, {"sides": [side(1), side(1)]})
    assert next(views) == {"done": 0, "of": 4}
    stop_agreeing({"": engine}, page)
    *_, last = views
    assert last["compared"] == len(last["rows"]) == 0
    assert page.comparing is None


def test_a_folder_without_photos_and_a_wrong_option_are_told(
    engine: Engine, page: FolderPage
) -> None:
    with pytest.raises(OptionError, match="beams"):
        list(agree({"": engine}, page, {"sides": [side(0), side(1)]}))
    page.sheet.rows = []
    assert list(agree({"": engine}, page, {"sides": [side(1)]})) == [{"message": "no folder"}]
