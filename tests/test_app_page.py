"""What a page of the app says about a photo."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm.app.component import build, example_photos
from vlm.app.page import DISPLAY_SIZE, View, answer, describe
from vlm.app.page import Page as Tab
from vlm.captioner import Captioner

REPOSITORY = Path(__file__).resolve().parent.parent
DOG = REPOSITORY / "assets" / "examples" / "dog.jpg"
HORSES = REPOSITORY / "assets" / "examples" / "horses.jpg"


def texts(words: list[View]) -> list[str]:
    return [word["text"] for word in words]


def described(captioner: Captioner, photo: Path, tab: Tab | None = None) -> Tab:
    tab = tab or Tab()
    list(describe(captioner, tab, photo, photo.name, 1))
    return tab


def displayed(tab: Tab) -> Image.Image:
    assert tab.photo
    return Image.open(tab.photo["file"]["path"])


def test_a_caption_streams_and_ends_as_the_beam_search_has_it(tiny: Captioner) -> None:
    views = list(describe(tiny, Tab(), DOG, "dog.jpg", 7))
    image = tiny.encode(DOG)
    greedy = [word.text for word in image.stream()]
    caption = image.caption()

    written = [texts(view["caption"]) for view in views[:-1]]
    assert written == [[], *(greedy[:count] for count in range(len(greedy) + 1))]
    assert all(view["busy"] for view in views[:-1])
    assert texts(views[-1]["caption"]) == [word.text for word in caption.words]
    assert views[-1]["busy"] is None
    assert views[-1]["message"] is None
    assert {view["turn"] for view in views} == {7}
    for word, word_map in zip(views[-1]["caption"], caption.maps(), strict=True):
        np.testing.assert_allclose(word["map"], word_map.weights, atol=1e-5)


def test_questions_share_one_encoding_and_their_answers_pile_up(
    tiny: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = described(tiny, DOG)
    monkeypatch.setattr(tiny, "encode_all", lambda sources: pytest.fail("encoded again"))
    for question in ("what colour is the shape?", "is there a dog?"):
        *_, view = answer(tab, question, 2)
    assert tab.image
    expected = tab.image.ask("is there a dog?")

    assert len(view["answers"]) == 2
    last = view["answers"][-1]
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
    tiny: Captioner, question: str, said: str
) -> None:
    tab = described(tiny, DOG)
    before = list(answer(tab, "is there a dog?", 2))[-1]
    after = list(answer(tab, question, 3))[-1]
    assert said in after["message"]
    assert after["busy"] is None
    assert {**after, "turn": 2, "message": None} == before


def test_a_question_needs_a_photo() -> None:
    *_, view = answer(Tab(), "is there a dog?", 1)
    assert view["message"] == "Choose a photo first."


def test_a_file_that_is_no_photo_leaves_the_page_as_it_was(tiny: Captioner, tmp_path: Path) -> None:
    tab = described(tiny, DOG)
    before = tab.view(1)
    broken = tmp_path / "0a1b2c" / "letter.pdf"
    broken.parent.mkdir()
    broken.write_bytes(b"%PDF-1.4 no photo")
    *_, after = describe(tiny, tab, broken, "letter.pdf", 2)
    assert after["message"].startswith("“letter.pdf” is not an image")
    assert str(tmp_path) not in after["message"]
    assert {**after, "turn": 1, "message": None} == before


def test_a_model_that_writes_no_captions_shows_the_photo_and_answers(tiny: Captioner) -> None:
    model = copy.copy(tiny.model)
    model.config = replace(tiny.model.config, tasks=("vqa",))
    tab = Tab()
    *_, view = describe(Captioner(model, tiny.tokenizer), tab, DOG, "dog.jpg", 1)
    assert view["photo"]["name"] == "dog.jpg"
    assert view["busy"] is None
    assert "ask it a question" in view["message"]
    *_, asked = answer(tab, "is there a dog?", 2)
    assert asked["message"] is None
    assert len(asked["answers"]) == 1


def test_a_new_photo_takes_the_place_of_the_old_and_its_answers(tiny: Captioner) -> None:
    tab = described(tiny, DOG)
    list(answer(tab, "is there a dog?", 2))
    described(tiny, HORSES, tab)
    assert tab.answers == []
    assert tab.photo
    assert tab.photo["name"] == "horses.jpg"


def test_two_pages_never_mix(tiny: Captioner) -> None:
    alone = [list(describe(tiny, Tab(), photo, photo.name, 1)) for photo in (DOG, HORSES)]
    tabs = Tab(), Tab()
    streams = [describe(tiny, tab, photo, photo.name, 1) for tab, photo in zip(tabs, (DOG, HORSES))]
    together: list[list[View]] = [[], []]
    while any(len(seen) < len(all_) for seen, all_ in zip(together, alone)):
        for seen, stream in zip(together, streams):
            seen += [view for view in [next(stream, None)] if view is not None]
    assert [[v["caption"] for v in views] for views in together] == [
        [v["caption"] for v in views] for views in alone
    ]


def test_a_rotated_photo_is_shown_upright(tiny: Captioner, tmp_path: Path) -> None:
    lying = Image.new("RGB", (80, 40), "black")
    lying.paste("red", (0, 0, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the top of the scene is on the right
    lying.save(tmp_path / "lying.jpg", exif=exif)
    shown = displayed(described(tiny, tmp_path / "lying.jpg"))
    assert shown.size == (40, 80)
    red, _, blue = shown.getpixel((20, 8))
    assert red > 200 > blue
    assert not shown.getexif()


def test_a_transparent_photo_is_shown_on_white(tiny: Captioner, tmp_path: Path) -> None:
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    shown = displayed(described(tiny, tmp_path / "clear.png"))
    assert shown.getpixel((15, 15)) == (255, 255, 255)


def test_a_huge_photo_is_shown_small_and_placed_as_a_share_of_its_sides(
    tiny: Captioner, tmp_path: Path
) -> None:
    Image.new("RGB", (6000, 3000), "teal").save(tmp_path / "wide.png")
    tab = described(tiny, tmp_path / "wide.png")
    assert tab.photo
    assert displayed(tab).size == (DISPLAY_SIZE, DISPLAY_SIZE // 2)
    assert (tab.photo["width"], tab.photo["height"]) == (6000, 3000)
    frame = tiny.preprocess.frame(6000, 3000)
    left, top, right, bottom = frame.box
    assert tab.photo["box"] == [left / 6000, top / 3000, right / 6000, bottom / 3000]


def test_every_example_can_be_read(tiny: Captioner) -> None:
    photos = example_photos()
    assert DOG.name in [photo.name for photo in photos]
    for photo in photos:
        assert described(tiny, photo).caption


def test_the_events_of_the_page_are_no_public_interface(tiny: Captioner) -> None:
    assert build(tiny).get_api_info()["named_endpoints"] == {}
