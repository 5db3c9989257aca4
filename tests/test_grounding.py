"""Maps against places that are known: planted maps must score what was planted."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from training.data.records import DataError, ImageRef, Record
from training.data.report import Report
from training.evaluation.grounding.curves import _logprobs, curves
from training.evaluation.grounding.entities import original_size, read_boxes
from training.evaluation.grounding.explainers import (
    BASELINES,
    explainers,
    less_the_mean,
    same_for_all,
)
from training.evaluation.grounding.grounding_tables import Table, pointing_table
from training.evaluation.grounding.places import (
    Example,
    Named,
    Place,
    captions_with_phrases,
    word_positions,
)
from training.evaluation.grounding.pointing import first_photos, over_photos, peak, point
from training.evaluation.grounding.things import shapes_of_easy_vqa, things_of_scenes
from training.evaluation.grounding.word_effects import Effects, caption_effects, word_class
from training.evaluation.metrics.statistics import bootstrap_interval
from training.faithfulness import app
from vlm.weights.store import load_checkpoint

MEAN = (124, 116, 104)  # of ImageNet, by which the encoder normalises
TRAIN = tuple(f"{number}_c.jpg" for number in range(3, 8))
LEFT = Place(((0.0, 0.0, 0.25, 1.0),))
RIGHT = Place(((0.75, 0.0, 1.0, 1.0),))


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(256, size=(60, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file)
    return ImageRef(str(file))


def column(index: int, count: int = 4) -> np.ndarray:
    weights = np.full((3, count), 0.01)
    weights[1, index] = 1
    return weights


def test_a_cells_coverage_is_the_share_of_it_that_lies_in_boxes():
    place = Place(((0.0, 0.0, 0.5, 0.25), (0.0, 0.0, 0.25, 0.25)))  # the second adds nothing
    np.testing.assert_allclose(place.coverage((2, 2)), [[0.5, 0], [0, 0]])
    assert place.area == pytest.approx(0.125)
    np.testing.assert_allclose(place.coverage((1, 1), (0.0, 0.0, 0.5, 0.5)), [[0.5]])
    assert place.holds(0.4, 0.2)
    assert not place.holds(0.4, 0.3)


def test_the_peak_is_the_centre_of_its_cell_in_the_part_that_was_seen():
    assert peak(column(3)) == pytest.approx((0.875, 0.5))
    assert peak(column(3), (0.5, 0.0, 1.0, 1.0)) == pytest.approx((0.9375, 0.5))


@pytest.mark.parametrize(
    ("boxes", "size"),
    [
        ([(0, 0, 500, 100), (0, 0, 10, 333)], (500, 333)),
        ([(0, 0, 375, 499)], (375, 500)),
        ([(0, 0, 450, 333)], None),  # nothing reaches the end of a longer side
        ([(0, 0, 500, 200)], None),  # the other side is open
    ],
)
def test_boxes_tell_the_original_size_where_they_reach_its_ends(boxes, size):
    assert original_size(boxes) == size


def test_boxes_are_read_from_their_file_and_a_broken_line_is_named(tmp_path):
    file = tmp_path / "boxes.tsv"
    file.write_text("a.jpg\ta dog\t1\t1\t500\t333\na.jpg\ta dog\t2\t3\t4\t5\n")
    assert read_boxes(file) == {"a.jpg": {"a dog": [(0, 0, 500, 333), (1, 2, 4, 5)]}}
    file.write_text("a.jpg\ta dog\t1\t1\n")
    with pytest.raises(DataError, match="line 1"):
        read_boxes(file)


def test_a_phrase_is_typed_in_with_the_first_caption_that_has_it_as_whole_words():
    image = ImageRef("/photos/a.jpg")
    texts = ["A man walks .", "A black dog runs to a man .", "Dogs run ."]
    phrases = {"a.jpg": {"A black dog": LEFT, "A man": RIGHT, "Dog": LEFT, "a cat": LEFT}}
    examples = captions_with_phrases([(image, texts)], phrases)
    assert [(e.text, [n.words for n in e.named]) for e in examples] == [
        (texts[0], ["A man"]),
        (texts[1], ["A black dog", "Dog"]),
    ]
    with pytest.raises(DataError, match="none of the photos"):
        captions_with_phrases([(image, ["nothing"])], phrases)


def test_a_phrase_stands_in_all_captions_that_have_it_where_wanted():
    image, texts = ImageRef("/photos/a.jpg"), ["A dog .", "A dog and a man ."]
    found = captions_with_phrases([(image, texts)], {"a.jpg": {"a dog": LEFT}}, once=False)
    assert [len(example.named) for example in found] == [1, 1]


def test_words_are_found_where_they_stand_in_the_text(tiny):
    text = ["a", "dog", "and", "a", "black", "dog"]
    assert word_positions(tiny.tokenizer, "A black dog", text) == (3, 4, 5)
    assert word_positions(tiny.tokenizer, "dog", text) == (1,)
    assert word_positions(tiny.tokenizer, "cat", text) == ()


def test_maps_that_peak_on_what_is_named_hit_and_others_miss(tiny, photo):
    example = Example(photo, "a dog and a cat", (Named("a dog", LEFT), Named("a cat", RIGHT)))

    def knows(image, ids, question=None):
        return [column(0), column(0), column(1), column(3), column(3)]

    def mixes_up(image, ids, question=None):
        return knows(image, ids)[::-1]

    centre = BASELINES["centre"]
    judged = {"knows": knows, "mixes up": mixes_up, "centre": centre}
    pointed = point(tiny, [example], judged, Report())
    for pooling in ("mean", "max", "last"):
        assert pointed["knows"].rate("hits", pooling).value == 1
        assert pointed["mixes up"].rate("hits", pooling).value == 0
        assert pointed["knows"].rate("inside", pooling).value > 0.85
        assert pointed["mixes up"].rate("inside", pooling).value < 0.05
    assert pointed["centre"].rate("hits").value == 0
    rows = pointing_table("t", pointed, "mean", caption_ms=10).rows
    assert rows[0][1] == "100.0 (100.0 to 100.0)"
    assert rows[0][2] == "**+100.0 (+100.0 to +100.0)**"


def test_pooling_says_which_of_a_phrases_words_decides(tiny, photo):
    example = Example(photo, "black dog", (Named("black dog", RIGHT),))

    def explain(image, ids, question=None):
        sharp, flat = np.zeros((3, 4)), column(3) + 0.3
        sharp[1, 0] = 1
        return [sharp, flat]

    hits = point(tiny, [example], {"m": explain}, Report())["m"].hits
    assert hits == {"mean": [False], "max": [False], "last": [True]}


def test_only_small_things_count_as_small(tiny, photo):
    large = Place(((0.0, 0.0, 1.0, 1.0),))
    named = (Named("a dog", large), Named("a cat", Place(((0.9, 0.9, 1.0, 1.0),))))
    example = Example(photo, "a dog and a cat", named)
    centre = point(tiny, [example], {"centre": BASELINES["centre"]}, Report())["centre"]
    assert centre.rate("hits").value == 0.5
    assert centre.rate("hits", small=True).value == 0


def test_an_image_that_cannot_be_read_is_reported_and_the_others_count(tiny, photo, tmp_path):
    named = (Named("a dog", LEFT),)
    examples = [Example(ImageRef(str(tmp_path / "none.png")), "a dog", named)]
    examples.append(Example(photo, "a dog", named))
    report = Report(limit=1)
    pointed = point(tiny, examples, {"random": BASELINES["random"]}, report)
    assert len(pointed["random"].photos) == 1
    assert "none.png" in report.broken[0].where
    assert first_photos(examples, 1) == examples[:1]


def test_phrases_of_one_photo_are_no_independent_trials():
    values = np.tile([0.0, 1.0], 50)
    apart = bootstrap_interval(over_photos(values, np.arange(100)))
    together = bootstrap_interval(over_photos(values, np.arange(100) % 2))
    assert over_photos(values, np.arange(100) % 2).value == 0.5
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_baselines_know_nothing_of_the_words(tiny, photo):
    image = tiny.encode(photo.path)
    one, other = (tiny.tokenizer.encode(text) for text in ("a brown dog", "a black cat"))
    for name in ("centre", "edges", "saliency"):
        maps = [*BASELINES[name](image, one), *BASELINES[name](image, other)]
        assert all((m >= 0).all() and np.array_equal(m, maps[0]) for m in maps), name
    assert peak(BASELINES["centre"](image, one)[0]) == (0.5, 0.5)
    same = BASELINES["same map"](image, one)
    np.testing.assert_allclose(same[0], same[2])
    noise = BASELINES["random"](image, one)
    assert not np.array_equal(noise[0], noise[1])
    np.testing.assert_array_equal(noise, BASELINES["random"](image, one))


def test_edges_and_saliency_find_the_one_thing_on_a_plain_ground(tiny, tmp_path):
    picture = Image.new("RGB", (96, 96), "white")
    picture.paste((200, 0, 0), (70, 70, 90, 90))
    picture.save(tmp_path / "thing.png")
    image = tiny.encode(tmp_path / "thing.png")
    ids = tiny.tokenizer.encode("a dog")
    for name in ("edges", "saliency"):
        x, y = peak(BASELINES[name](image, ids)[0])
        assert x > 0.6, name
        assert y > 0.6, name


def test_less_the_mean_keeps_what_a_word_has_more_than_others():
    explain = less_the_mean(lambda image, ids, question=None: [column(0), column(3)])
    assert [m.argmax() for m in explain(None, (), None)] == [4, 7]
    assert explain(None, (), None)[0][1, 3] == 0


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(ValueError, match="'crystal ball'"):
        explainers(["crystal ball"])


def test_a_picture_goes_and_comes_in_the_order_of_the_map(tiny, photo, monkeypatch):
    """A word whose chance is the share of its thing that is shown: the map that knows the thing is best at both."""

    def logprobs(captioner, image, ids, masks, fill):
        thing = slice(6, 9)  # the last row of 3 x 3
        shown = {mask: np.frombuffer(mask, dtype=bool)[thing].mean() for mask in masks}
        return {mask: torch.full((len(ids),), float(share)) for mask, share in shown.items()}

    monkeypatch.setattr("training.evaluation.grounding.curves._logprobs", logprobs)
    bottom = np.repeat([[0.0], [0.1], [1.0]], 3, axis=1)
    judged = {
        "knows": lambda image, ids, question=None: [bottom] * 9,
        "mixes up": lambda image, ids, question=None: [1 - bottom] * 9,
    }
    example = Example(photo, "a dog", ())
    found = curves(tiny, [example], judged, "mean", Report())
    assert found["knows"].deletion[0] < 0.2
    assert found["mixes up"].deletion[0] > 0.6
    assert found["knows"].insertion[0] > 0.8
    assert found["mixes up"].insertion[0] < 0.4
    tokens = len(tiny.tokenizer.encode("a"))  # the drawn word's, or more
    assert found["knows"].lost[0] >= tokens


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_what_is_shown_is_the_picture_and_all_of_it_is_the_caption_typed_in(tiny, photo, fill):
    image, ids = tiny.encode(photo.path), tiny.tokenizer.encode("a brown dog")
    full, none = np.full(9, True).tobytes(), np.full(9, False).tobytes()
    found = _logprobs(tiny, image, ids, [full, none], fill)
    words = image.explain("a brown dog").words
    assert float(found[full].sum()) == pytest.approx(sum(w.logprob for w in words), abs=1e-3)
    assert not torch.allclose(found[full], found[none], atol=1e-3)
    if fill == "mean":
        gone = tiny.encode(Image.new("RGB", (90, 60), MEAN)).explain("a brown dog").words
        assert float(found[none].sum()) == pytest.approx(sum(w.logprob for w in gone), abs=0.1)


@pytest.fixture
def flickr(tmp_path, request):
    """A few photos in the layout of Flickr8k, and boxes of their phrases."""
    folder = tmp_path / "flickr8k"
    (folder / "images").mkdir(parents=True)
    lines, boxes = [], []
    generator = np.random.default_rng(1)
    for name in ("1_a.jpg", "2_b.jpg", *TRAIN):
        pixels = generator.integers(256, size=(64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
        lines += [f"{name}#{i}\tA brown dog in the park ." for i in range(5)]
        boxes += [f"{name}\tA brown dog\t1\t1\t250\t333", f"{name}\tthe park\t1\t1\t500\t333"]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, own in (("train", "\n".join(TRAIN)), ("dev", "1_a.jpg\n2_b.jpg"), ("test", "")):
        (folder / f"Flickr_8k.{split}Images.txt").write_text(own + "\n")
    (tmp_path / "flickr8k_entities").mkdir()
    (tmp_path / "flickr8k_entities" / "boxes.tsv").write_text("\n".join(boxes) + "\n")
    return tmp_path


def test_the_shape_of_a_plain_picture_is_found_by_its_pixels(tmp_path):
    picture = Image.new("RGB", (64, 64), (250, 250, 240))
    picture.paste((0, 128, 0), (16, 32, 32, 48))
    picture.save(tmp_path / "0.png")
    asked = [("what shape is there?", "rectangle"), ("is there a circle?", "no")]
    image = ImageRef(str(tmp_path / "0.png"))
    records = [Record(image, (answer,), question) for question, answer in asked]
    (example,) = shapes_of_easy_vqa(records)
    assert (example.text, example.question) == ("rectangle", asked[0][0])
    assert example.named[0].place.boxes == ((0.25, 0.5, 0.5, 0.75),)


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """Coloured squares with the names of things, and one that no caption has."""
    folder = tmp_path_factory.mktemp("stamps") / "things"
    folder.mkdir()
    for number, name in enumerate(("dog", "cat", "horse", "boat", "car", "tree", "xanthia")):
        Image.new("RGBA", (40, 40), (35 * number, 250 - 35 * number, 120, 255)).save(
            folder / f"{name}.png"
        )
        (folder / f"{name}.txt").write_text(f"A {name}.")
    return folder.parent


def test_things_of_a_scene_are_where_it_put_them(tiny, stamps):
    examples = things_of_scenes(stamps, "dev", 6)
    assert [e.text for e in examples] == [e.text for e in things_of_scenes(stamps, "dev", 6)]
    assert [e.text for e in examples] != [e.text for e in things_of_scenes(stamps, "test", 6)]
    for example in examples:
        assert len({named.words for named in example.named}) >= 3
        assert all(named.words in example.text for named in example.named)
        assert "xanthia" not in example.text
        picture = np.asarray(Image.open(io.BytesIO(example.image.read()))).astype(int)
        for named in example.named:
            ((left, top, right, bottom),) = named.place.boxes
            y, x = (
                round((top + bottom) / 2 * len(picture)),
                round((left + right) / 2 * len(picture)),
            )
            assert picture[y, x, 2] == 120  # a square's, which no ground has
    example = examples[0]

    def knows(image, ids, question=None):
        """Edges, but of the thing that a word is of alone."""
        words = [word.text for word in tiny.tokenizer.words(ids)]
        maps = [np.ones((8, 8))] * len(words)
        for named in example.named:
            for position in word_positions(tiny.tokenizer, named.words, words):
                maps[position] = named.place.coverage((8, 8))
        return maps

    judged = {"knows": knows, "same": same_for_all(knows)}
    pointed = point(tiny, [example], judged, Report())
    assert pointed["knows"].rate("hits").value == 1
    assert pointed["same"].rate("hits").value <= 0.5


def test_the_command_judges_every_method_and_baseline(flickr, stamps, tiny_checkpoint):
    arguments = [str(tiny_checkpoint), "--data", str(flickr), "--measure", "entities"]
    scenes = ["--measure", "scenes", "--stamps", str(stamps), "--measure", "curves"]
    scenes += ["--measure", "captions", "--measure", "effects"]
    ran = CliRunner().invoke(app, [*arguments, *scenes, "--limit", "2", "--json"])
    assert ran.exit_code == 0, ran.output
    table, composed, boxed, by_mean, by_blur, effects = map(json.loads, ran.stdout.splitlines())
    assert "entities: 1 of 5 measures" in ran.stderr
    assert len(effects["columns"]) == len(effects["rows"][0])
    assert [row[0] for row in by_mean["rows"]] == [row[0] for row in by_blur["rows"]]
    assert "2 words" in by_blur["note"]
    assert "phrases in 2 photos" in composed["note"]
    names = [row[0] for row in table["rows"]]
    assert [row[0] for row in boxed["rows"]] == names
    assert names[: len(BASELINES)] == list(BASELINES)
    assert "attention" in names
    assert "4 phrases in 2 photos" in table["note"]
    few = ["--limit", "1", "--method", "attention"]
    printed = CliRunner().invoke(app, [*arguments, *few])
    assert "2 phrases in 1 photos" in printed.stdout
    assert re.search(r"\| attention +\|", printed.stdout)


def test_each_table_is_told_and_in_the_card_before_the_next_is_measured(
    flickr, tiny_checkpoint, monkeypatch
):
    """A run that breaks off has told what it measured, and the card keeps what other runs measured."""
    table = Table("First", ("map",), (("attention",),), "**bold** in a note")
    other = Table("Another", ("map",), (("value",),))

    def breaks_off(asked):
        yield table
        raise DataError("the disk is gone")

    measures = {"entities": breaks_off, "scenes": lambda asked: iter([other])}
    monkeypatch.setattr("training.evaluation.grounding.grounding_measures.MEASURES", measures)
    card = flickr / "GROUNDING.md"
    start = [str(tiny_checkpoint), "--data", str(flickr), "--card", str(card), "--measure"]
    assert CliRunner().invoke(app, [*start, "scenes"]).exit_code == 0
    ran = CliRunner().invoke(app, [*start, "entities"])
    assert ran.exit_code == 2
    assert "the disk is gone" in ran.stderr
    assert ran.stdout.strip() == table.markdown()
    table = replace(table, rows=(("context",),))
    CliRunner().invoke(app, [*start, "entities"])
    text = card.read_text()
    assert text.startswith("# Grounding card: tiny")
    assert other.markdown() in text
    assert table.markdown() in text
    assert text.count("**First**") == 1
    assert not re.search(r"\| attention +\|", text)
    assert text.count("Measured on 20") == 2


def test_a_file_that_is_no_grounding_card_is_left_alone(flickr, tiny_checkpoint):
    card = flickr / "README.md"
    card.write_text("# Model card")
    ran = CliRunner().invoke(
        app, [str(tiny_checkpoint), "--data", str(flickr), "--card", str(card)]
    )
    assert ran.exit_code == 2
    assert "is no grounding card" in ran.stderr
    assert card.read_text() == "# Model card"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("Puppies", "thing"),
        ("snowboard", "thing"),
        ("grey,", "colour"),
        ("two", "number"),
        ("jumps", "action"),
        ("above", "place"),
        ("The", "small word"),
        ("happily", "other"),
    ],
)
def test_a_word_has_one_class(word, expected):
    assert word_class(word) == expected


def test_effects_are_of_the_words_that_the_model_wrote(tiny, photo):
    found = caption_effects(tiny, [Example(photo, "a dog", ())], Report())
    caption = tiny.encode(photo.path).caption()
    by_class: dict[str, list[float]] = {}
    for word, nats in zip(caption.words, caption.image_effect.words):
        by_class.setdefault(word_class(word.text), []).append(nats)
    assert {name: pytest.approx(e.nats, abs=1e-4) for name, e in found.items()} == by_class


def test_effects_fall_into_bins():
    effects = Effects([-1.0, 0.0, 0.05, 2.0, 9.0], [0, 0, 1, 1, 2])
    assert effects.shares == [0.2, 0.4, 0.0, 0.2, 0.2]
    assert effects.mean.value == pytest.approx(2.01)


def test_the_command_writes_the_heads_that_it_chose(flickr, tiny_checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    ran = CliRunner().invoke(app, [str(folder), "--data", str(flickr), "--choose-heads"])
    assert ran.exit_code == 0, ran.output
    heads = load_checkpoint(folder)[0].config.decoder.alignment_heads
    assert heads
    assert f"alignment_heads: {list(heads)}" in ran.stdout


def test_maps_that_saw_boxes_have_a_row_that_says_so(flickr, tiny_checkpoint, tmp_path):
    file = tmp_path / "powers.json"
    start = [str(tiny_checkpoint), "--data", str(flickr)]
    ran = CliRunner().invoke(app, [*start, "--fit-supervised", str(file)])
    assert ran.exit_code == 0, ran.output
    asked = ["--measure", "entities", "--supervised", str(file), "--json"]
    ran = CliRunner().invoke(app, [*start, *asked])
    assert ran.exit_code == 0, ran.output
    table = json.loads(ran.stdout)
    assert table["rows"][-1][0] == "supervised (saw boxes)"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--supervised", "nowhere.json"], "holds no powers"),
        (["--method", "tea leaves"], "tea leaves"),
        (["--split", "autumn"], "autumn"),
        (["--card", "nowhere/card.md"], "no folder nowhere"),
        (["--choose-heads", "--data", "nowhere"], "nowhere"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_the_command_cannot_do_is_said_in_a_sentence(flickr, tiny_checkpoint, arguments, says):
    asked = [str(tiny_checkpoint), "--data", str(flickr), "--measure", "entities", *arguments]
    ran = CliRunner().invoke(app, asked)
    assert ran.exit_code == 2
    assert says in ran.output
    assert "Traceback" not in ran.output
