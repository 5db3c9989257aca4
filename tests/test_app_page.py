"""What a page of the app says about a photo."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlm.app.component import build, example_photos
from vlm.app.entries import check
from vlm.app.page import (
    DISPLAY_SIZE,
    KEPT_SIZE,
    Superseded,
    View,
    answer,
    describe,
    said,
    stop,
)
from vlm.app.page import Page as Tab
from vlm.boxes import Place
from vlm.captioner import Captioner
from vlm.engine import Cancelled, Engine
from vlm.explain.maps import WordMap
from vlm.explain.overlay import heat
from vlm.images import Preprocess
from vlm.images.frame import pixel_steps

REPOSITORY = Path(__file__).resolve().parent.parent
DOG = REPOSITORY / "assets" / "examples" / "dog.jpg"
HORSES = REPOSITORY / "assets" / "examples" / "horses.jpg"


def texts(words: list[View]) -> list[str]:
    return [word["text"] for word in words]


@pytest.fixture(scope="module")
def engine(tiny: Captioner) -> Iterator[Engine]:
    with Engine(tiny) as engine:
        yield engine


def described(engine: Engine, photo: Path, tab: Tab | None = None) -> Tab:
    tab = tab or Tab()
    list(describe(engine, tab, photo, photo.name, tab.turn + 1))
    return tab


def displayed(tab: Tab) -> Image.Image:
    assert tab.photo
    return Image.open(tab.photo["file"]["path"])


def test_a_caption_is_one_search_whose_words_come_as_they_are_sure(
    tiny: Captioner, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    forward = tiny.model.decoder.forward
    monkeypatch.setattr(
        tiny.model.decoder, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k)
    )
    caption = tiny.encode(DOG).caption()
    caption.maps()
    assert caption.image_effect
    alone = len(passes)
    views = list(describe(engine, Tab(), DOG, "dog.jpg", 7))

    assert len(passes) == 2 * alone
    written = [texts(view["caption"]["words"]) for view in views if view["caption"]]
    assert written[-1] == [word.text for word in caption.words]
    for before, after in pairwise(written):
        assert after[: len(before)] == before
    assert all(view["busy"] for view in views[:-2])
    assert views[-2]["busy"] is views[-1]["busy"] is None  # what the image did comes last
    assert views[-1]["message"] is None
    assert {view["turn"] for view in views} == {7}
    said = views[-1]["caption"]["words"]
    for word, word_map in zip(said, caption.maps(), strict=True):
        np.testing.assert_allclose(word["map"], word_map.weights, atol=1e-5)
    effects = [word["effect"] for word in said]
    np.testing.assert_allclose(effects, caption.image_effect.words, atol=1e-3)


def test_questions_share_one_encoding_and_their_answers_pile_up(
    tiny: Captioner, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = described(engine, DOG)
    monkeypatch.setattr(tiny, "encode_all", lambda sources: pytest.fail("encoded again"))
    for question in ("what colour is the shape?", "is there a dog?"):
        *_, view = answer(engine, tab, question, tab.turn + 1)
    assert tab.image
    expected = tab.image.ask("is there a dog?")

    assert len(view["answers"]) == 2
    last = view["answers"][-1]["text"]
    assert texts(last["question"]) == ["is", "there", "a", "dog", "?"]
    assert texts(last["words"]) == [word.text for word in expected.words]
    assert last["candidates"][0] == {
        "text": expected.text,
        "confidence": pytest.approx(expected.confidence, abs=1e-4),
    }
    assert len(last["candidates"]) == 1 + len(expected.alternatives)
    maps = [word["map"] for word in last["question"] + last["words"]]
    np.testing.assert_allclose(maps, [m.weights for m in expected.maps()], atol=1e-5)


@pytest.mark.parametrize(
    ("question", "said"), [("  ", "question is empty"), ("why " * 2500, "question is too long")]
)
def test_a_question_that_cannot_be_asked_leaves_the_page_as_it_was(
    engine: Engine, question: str, said: str
) -> None:
    tab = described(engine, DOG)
    before = list(answer(engine, tab, "is there a dog?", 2))[-1]
    after = list(answer(engine, tab, question, 3))[-1]
    assert said in after["message"]
    assert after["busy"] is None
    assert {**after, "turn": 2, "message": None} == before


def test_a_question_needs_a_photo(engine: Engine) -> None:
    *_, view = answer(engine, Tab(), "is there a dog?", 1)
    assert view["message"] == "no photo"


def test_a_pronoun_stands_for_what_the_question_before_was_about(engine: Engine) -> None:
    tab = described(engine, DOG)
    list(answer(engine, tab, "is there a dog?", 2))
    list(check(engine, tab, "no", "is there a dog?", 3))
    *_, view = answer(engine, tab, "is it black?", 4)
    first, _, latest = view["answers"]
    assert texts(latest["text"]["question"]) == ["is", "the", "dog", "black", "?"]
    assert latest["typed"] == "is it black?"
    assert first["typed"] is None
    # Another photo begins another conversation.
    described(engine, HORSES, tab)
    *_, view = answer(engine, tab, "is it black?", tab.turn + 1)
    assert texts(view["answers"][0]["text"]["question"]) == ["is", "it", "black", "?"]


def test_a_file_that_is_no_photo_leaves_the_page_as_it_was(engine: Engine, tmp_path: Path) -> None:
    tab = described(engine, DOG)
    before = tab.view(1)
    broken = tmp_path / "0a1b2c" / "letter.pdf"
    broken.parent.mkdir()
    broken.write_bytes(b"%PDF-1.4 no photo")
    *_, after = describe(engine, tab, broken, "letter.pdf", 2)
    assert after["message"].startswith("“letter.pdf” is not an image")
    assert str(tmp_path) not in after["message"]
    assert {**after, "turn": 1, "message": None} == before


def test_a_model_that_writes_no_captions_shows_the_photo_and_answers(tiny: Captioner) -> None:
    model = copy.copy(tiny.model)
    model.config = replace(tiny.model.config, tasks=("vqa",))
    tab = Tab()
    with Engine(Captioner(model, tiny.tokenizer)) as engine:
        *_, view = describe(engine, tab, DOG, "dog.jpg", 1)
        *_, asked = answer(engine, tab, "is there a dog?", 2)
    assert view["photo"]["name"] == "dog.jpg"
    assert view["busy"] is None
    assert view["message"] == "no captions"
    assert asked["message"] is None
    assert len(asked["answers"]) == 1


def test_places_that_an_answer_names_are_shares_of_the_photo(tiny: Captioner) -> None:
    told = tiny.encode(DOG).ask("is there a dog?")
    width, height = told.image.frame.width, told.image.frame.height
    box = Place("dog", ((width / 2, height), (0, height / 4)))
    line = Place("", ((0, 0), (width, 0), (width, height), (0, height)))
    view = said(0, replace(told, places=(box, line)), told.maps())
    assert view["places"] == [
        {"label": "dog", "corners": [[0, 0.25], [0.5, 0.25], [0.5, 1], [0, 1]]},
        {"label": "", "corners": [[0, 0], [1, 0], [1, 1], [0, 1]]},
    ]
    assert said(0, told, told.maps())["places"] == []


def test_a_new_photo_takes_the_place_of_the_old_and_its_answers(engine: Engine) -> None:
    tab = described(engine, DOG)
    list(answer(engine, tab, "is there a dog?", 2))
    described(engine, HORSES, tab)
    assert tab.answers == []
    assert tab.photo
    assert tab.photo["name"] == "horses.jpg"


def test_pages_at_the_same_time_never_mix(tiny: Captioner, engine: Engine) -> None:
    expected = {photo: tiny.encode(photo).caption() for photo in (DOG, HORSES)}

    def visit(number: int) -> tuple[Path, Tab]:
        photo = (DOG, HORSES)[number % 2]
        tab = described(engine, photo)
        list(answer(engine, tab, "is there a dog?", 2))
        return photo, tab

    with ThreadPoolExecutor(8) as pool:
        visits = list(pool.map(visit, range(16)))
    for photo, tab in visits:
        caption = expected[photo]
        assert tab.caption
        assert texts(tab.caption["words"]) == [word.text for word in caption.words]
        for word, word_map in zip(tab.caption["words"], caption.maps(), strict=True):
            np.testing.assert_allclose(word["map"], word_map.weights, atol=1e-4)
        assert caption.image is not None
        assert tab.answers[0]["text"]["text"] == caption.image.ask("is there a dog?").text


def test_a_newer_photo_ends_the_work_on_the_older_and_keeps_the_page(
    engine: Engine, tiny: Captioner
) -> None:
    tab = Tab()
    older = describe(engine, tab, DOG, "dog.jpg", 1)
    while next(older)["busy"] != "writing":
        pass
    newer = describe(engine, tab, HORSES, "horses.jpg", 2)
    next(newer)
    with pytest.raises((Superseded, Cancelled)):
        list(older)
    *_, view = newer
    assert view["photo"]["name"] == "horses.jpg"
    assert texts(view["caption"]["words"]) == [w.text for w in tiny.encode(HORSES).caption().words]


def test_who_waits_sees_a_place_in_line(engine: Engine) -> None:
    begun, free = threading.Event(), threading.Event()
    engine.call("someone else", lambda: begun.set() or free.wait(60))
    assert begun.wait(60)
    views = describe(engine, Tab(), DOG, "dog.jpg", 1)
    assert [next(views)["before"], next(views)["before"]] == [0, 1]
    free.set()
    *_, last = views
    assert last["before"] == 0
    assert last["caption"]["words"]


def test_an_event_that_was_overtaken_on_its_way_changes_nothing(engine: Engine) -> None:
    tab = Tab()
    list(describe(engine, tab, DOG, "dog.jpg", 2))
    before = tab.view(2)
    with pytest.raises(Superseded):
        list(describe(engine, tab, HORSES, "horses.jpg", 1))
    with pytest.raises(Superseded):
        list(answer(engine, tab, "is there a dog?", 2))
    assert tab.view(2) == before


def test_a_page_keeps_no_photo_in_full(engine: Engine, tmp_path: Path) -> None:
    photo = tmp_path / "large.png"
    Image.new("RGB", (5000, 3000), "teal").save(photo)
    tab = described(engine, photo)
    list(answer(engine, tab, "is there a dog?", 2))
    gc.collect()
    pictures = [o for o in gc.get_objects() if issubclass(type(o), Image.Image)]
    large = [picture for picture in pictures if max(picture.size) >= 1000]
    assert large == []
    assert tab.image
    assert max(tab.image.picture.size) == KEPT_SIZE


def test_a_rotated_photo_is_shown_upright(engine: Engine, tmp_path: Path) -> None:
    lying = Image.new("RGB", (80, 40), "black")
    lying.paste("red", (0, 0, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the top of the scene is on the right
    lying.save(tmp_path / "lying.jpg", exif=exif)
    shown = displayed(described(engine, tmp_path / "lying.jpg"))
    assert shown.size == (40, 80)
    red, _, blue = shown.getpixel((20, 8))
    assert red > 200 > blue
    assert not shown.getexif()


def test_a_transparent_photo_is_shown_on_white(engine: Engine, tmp_path: Path) -> None:
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    shown = displayed(described(engine, tmp_path / "clear.png"))
    assert shown.getpixel((15, 15)) == (255, 255, 255)


def test_a_huge_photo_is_shown_small(engine: Engine, tmp_path: Path) -> None:
    Image.new("RGB", (6000, 3000), "teal").save(tmp_path / "wide.png")
    tab = described(engine, tmp_path / "wide.png")
    assert tab.photo
    assert displayed(tab).size == (DISPLAY_SIZE, DISPLAY_SIZE // 2)
    assert tab.photo["width"] == 2 * tab.photo["height"]


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("size", [(320, 200), (90, 320), (320, 320)])
def test_the_page_spreads_maps_as_overlays_do(fit: str, size: tuple[int, int]) -> None:
    """What the browser computes of a photo's steps is `heat`, pixel by pixel; nothing where it was not seen."""
    frame = Preprocess((96, 96), (0.5,) * 3, (0.5,) * 3, fit).frame(*size)
    weights = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    expected = heat(frame, WordMap("dog", "caption", weights / weights.sum()))
    down, across = map(pixel_steps, frame.spread((5, 7)))
    values = (weights / weights.mean()).numpy()

    def mixed(line: np.ndarray, step: tuple[int, float]) -> float:
        first, share = step
        return line[first] + (line[first + 1] - line[first]) * share if share else line[first]

    for y in range(0, size[1], 9):
        for x in range(0, size[0], 9):
            row, column = down[y], across[x]
            if row is None or column is None:
                assert np.isnan(expected[y, x])
            else:
                wide = np.array([mixed(line, column) for line in values])
                assert mixed(wide, row) == pytest.approx(expected[y, x], abs=2e-3)


def test_every_example_can_be_read(engine: Engine) -> None:
    photos = example_photos()
    assert DOG.name in [photo.name for photo in photos]
    for photo in photos:
        assert described(engine, photo).caption


def test_the_events_of_the_page_are_no_public_interface(engine: Engine) -> None:
    named = build(engine).get_api_info()["named_endpoints"]
    assert set(named) == {"/caption", "/ask", "/explain"}  # which docs/serving.md describes


def test_a_stopped_caption_keeps_its_words_and_gets_their_maps(engine: Engine) -> None:
    tab = Tab()
    writing = describe(engine, tab, DOG, "dog.jpg", 1)
    shown: list[View] = []
    while len(shown) < 3:
        view = next(writing)
        shown = view["caption"]["words"] if view["caption"] else []
    *_, view = stop(engine, tab, 2)
    with pytest.raises((Superseded, Cancelled)):
        list(writing)
    assert texts(view["caption"]["words"])[:3] == texts(shown)[:3]
    assert all(word["map"] for word in view["caption"]["words"])
    assert view["busy"] is None


def test_stopping_when_nothing_goes_on_changes_nothing(engine: Engine) -> None:
    tab = described(engine, DOG)
    before = tab.view(2)
    *_, view = stop(engine, tab, 2)
    assert view == before
