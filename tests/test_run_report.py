"""The report of a run: one page that needs nothing else, whatever the run has left."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from small_runs import draw_photos

import training.loop.run_report as report
from training.data.records import ImageRef, Record
from training.loop.monitor import Monitor, log
from training.loop.run_report import LOG_LINES, curves, score_table, write_report
from training.recipe.recipe import Source
from training.recipe.sources import Group
from vlm.answers import Answer
from vlm.weights.store import save_checkpoint

if TYPE_CHECKING:
    from vlm.captioner import Captioner


class Page(HTMLParser):
    """A page's text under each heading, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.sources: list[str] = []
        self.tag = self.title = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag = tag
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.tag == "h2" and data.strip():
            self.title = data
            self.sections[data] = ""
        elif self.title:
            self.sections[self.title] += data


def pictures(page: Page) -> list[Image.Image]:
    encoded = [re.sub(r"^data:image/\w+;base64,", "", source) for source in page.sources]
    return [Image.open(io.BytesIO(base64.b64decode(text, validate=True))) for text in encoded]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run of six steps and two validations leaves."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("epochs: 2\nlicence: <none>\n")
    with Monitor(folder, step=0, steps=6) as monitor:
        for step in range(1, 7):
            figures = {"loss": 3 / step, "learning_rate": 1e-3, "gradient_norm": 1.0}
            monitor.step({"step": step, "epoch": 0, "images_per_second": 9.0, **figures})
            if step % 3 == 0:
                scores = {"loss": 2 / step, "CIDEr": 10.0 * step}
                monitor.validation(step, step // 3, scores, {}, better=True)
    return folder


def test_curves_scores_recipe_and_log_are_on_the_page(run: Path) -> None:
    write_report(run)
    page = Page(run / "report.html")
    assert list(page.sections) == ["Curves", "Validation", "Recipe", "Log"]
    [picture] = pictures(page)
    assert picture.size[0] > 1000
    assert "licence: <none>" in page.sections["Recipe"]  # and not a tag
    assert "dev loss 0.3333, CIDEr 60 (best so far)" in page.sections["Log"]


def test_a_run_that_failed_at_once_has_a_report(tmp_path: Path) -> None:
    log(tmp_path, "failed: the loss is nan")
    write_report(tmp_path)
    page = Page(tmp_path / "report.html")
    assert page.sections["Curves"].strip() == "No step was finished."
    assert page.sections["Recipe"].strip() == "There is none."
    assert "failed: the loss is nan" in page.sections["Log"]
    assert page.sources == []


def test_the_end_of_a_long_log_is_shown(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("".join(f"line {n}\n" for n in range(LOG_LINES + 50)))
    write_report(tmp_path)
    lines = Page(tmp_path / "report.html").sections["Log"].split("\n")
    shown = [line for line in lines if line.startswith("line")]
    assert (shown[0], shown[-1], len(shown)) == ("line 50", f"line {LOG_LINES + 49}", LOG_LINES)


def test_scores_that_came_later_or_are_no_number_have_their_place() -> None:
    metrics = [
        {"epoch": 1, "step": 3, "dev": {"loss": 2.5}},
        {"epoch": 2, "step": 6, "dev": {"loss": float("nan"), "accuracy": 40.25}},
    ]
    rows = re.findall(r"<tr>(.*?)</tr>", score_table(metrics))
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["epoch", "step", "loss", "accuracy"],
        ["1", "3", "2.5", ""],
        ["2", "6", "nan", "40.25"],
    ]
    assert "data:image/png" in curves([{"step": 1, "loss": 3.0}, *metrics])


@pytest.fixture
def groups(tmp_path: Path) -> list[Group]:
    """Eight photos; each has a caption of its own, the last one with signs that HTML knows."""
    photos = sorted(draw_photos(tmp_path / "photos", 8).glob("*.png"))
    things = ("dog", "man", "girl", "child", "cat", "street", "hill", "<b>bench</b>")
    captions = [f"a {thing} in the park" for thing in things]
    refs = [ImageRef(str(photo)) for photo in photos]
    return [
        Group(ref, (Record(ref, (caption,)),), Source("photos"))
        for ref, caption in zip(refs, captions)
    ]


def test_the_best_and_the_worst_examples_are_told_by_their_points(
    run: Path, groups: list[Group], tiny: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted captions: four are those of people, four have no word of them."""

    def planted(captioner: Captioner, judged: Iterable[Group]) -> Iterator[tuple[Record, Answer]]:
        for group in judged:
            right = groups.index(group) % 2 == 1
            text = group.records[0].texts[0] if right else "two red shapes"
            yield group.records[0], captioner.encode(group.image.read()).explain(text)

    monkeypatch.setattr(report, "samples", planted)
    save_checkpoint(run / "model", tiny.model, tiny.tokenizer)
    write_report(run, groups)
    page = Page(run / "report.html")
    best, worst = (page.sections[f"{kind} examples"] for kind in ("Best", "Worst"))
    for group in groups[1::2]:
        assert f"people: {group.records[0].texts[0]}" in best
    for group in groups[::2]:
        assert f"people: {group.records[0].texts[0]}" in worst
    assert worst.count("two red shapes (0 points)") == 4
    assert "<b>bench</b>" in best  # as text, not as a tag
    assert len(pictures(page)) == 1 + 4 + 4 + 4
    assert all(source.startswith("data:") for source in page.sources)


def test_the_models_own_words_are_shown_with_a_map_each(
    run: Path, groups: list[Group], tiny: Captioner
) -> None:
    save_checkpoint(run / "model", tiny.model, tiny.tokenizer)
    write_report(run, groups[:2])
    said = tiny.encode(groups[0].image.read()).caption().text
    page = Page(run / "report.html")
    assert said in page.sections["Random examples"]
    assert all(max(picture.size) <= report.SHEET_WIDTH * 10 for picture in pictures(page))


def test_one_caption_is_shown_without_points(
    run: Path, groups: list[Group], tiny: Captioner
) -> None:
    save_checkpoint(run / "model", tiny.model, tiny.tokenizer)
    write_report(run, groups[:1])
    shown = Page(run / "report.html").sections["Best examples"]
    assert "people: a dog in the park" in shown
    assert "points" not in shown


def test_a_question_that_cannot_be_read_is_passed_over(
    run: Path, groups: list[Group], tiny: Captioner
) -> None:
    ref = groups[0].image
    asked = [Record(ref, ("yes",), question) for question in ("why " * 100, "is it a dog?")]
    save_checkpoint(run / "model", tiny.model, tiny.tokenizer)
    write_report(run, [Group(ref, tuple(asked), Source("x"))])
    assert "is it a dog?" in Page(run / "report.html").sections["Best examples"]
    write_report(run, [Group(ref, tuple(asked[:1]), Source("x"))])
    assert Page(run / "report.html").sections["Best examples"].strip() == ""
