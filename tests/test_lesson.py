"""The lesson's model finds alignments that it was never shown, and its commands say so."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from documentation import ROOT, blocks, commands
from PIL import Image
from typer.testing import CliRunner

from training.lesson.commands import app
from training.lesson.drawings import draw_patches, draw_shares, look_inside
from training.lesson.headlines import headline
from training.lesson.learning import (
    Choice,
    LessonRecipe,
    choose,
    diagonal,
    draw,
    learn,
    load_lesson,
    open_lesson,
    save_lesson,
    score,
)
from training.lesson.pairs import AlignedPair, LessonError, Vocabulary
from training.lesson.translator import LONGEST, Translator
from training.recipe.recipe import RecipeError
from vlm.attend.source import AttendError, gather_alignment
from vlm.captioner import Captioner

PAGE = (ROOT / "docs" / "cross-attention.md").read_text()

RECIPE = LessonRecipe(
    "translation",
    examples=150,
    held_out=50,
    steps=300,
    batch=16,
    width=32,
    dropout=0.0,
    learning_rate=0.005,
)


ORDER = (2, 0, 3, 1)  # which source word each target word is, so that the diagonal is wrong


@pytest.fixture(scope="module")
def pairs() -> list[AlignedPair]:
    """Four source words of four each, and their meanings in another order."""
    numbers = list(product(range(4), repeat=4))
    random.Random(0).shuffle(numbers)
    links = frozenset(enumerate(ORDER))
    return [
        AlignedPair(
            tuple(f"{place}code{number}" for place, number in enumerate(drawn)),
            tuple(f"{place}word{drawn[place]}" for place in ORDER),
            links,
            links,
        )
        for drawn in numbers
    ]


@pytest.fixture(scope="module")
def model(pairs: list[AlignedPair]) -> Translator:
    return learn(RECIPE, pairs[100:])


def test_planted_alignments_are_found(model: Translator, pairs: list[AlignedPair]) -> None:
    choice = choose(model, pairs[:50])
    scores = score(model, pairs[50:100], choice)
    assert scores.exact > 0.9
    assert scores.aer < 0.05
    assert scores.diagonal_aer > 0.5
    untrained = Translator(model.vocabulary, 32, 1, 1, 0.0).eval()
    assert score(untrained, pairs[50:100], choice).aer > 0.5


def test_a_row_knows_no_later_word(model: Translator, pairs: list[AlignedPair]) -> None:
    """Row t is what chose word t, which neither it nor any later one has a part in."""
    pair = pairs[0]
    other = (*pair.target[:2], "2word0", "2word1")
    one, two = (model.read(pair.source, words).attention[0, 0] for words in (pair.target, other))
    torch.testing.assert_close(one[:3], two[:3])
    assert not torch.equal(one[3:], two[3:])
    torch.testing.assert_close(one.sum(dim=1), torch.ones(4))


def test_a_batch_gives_what_single_sources_give(
    model: Translator, pairs: list[AlignedPair]
) -> None:
    sources = [pairs[0].source[:2], *(pair.source for pair in pairs[:7])]
    assert model.translate(sources) == [model.translate([source])[0] for source in sources]
    memory = model.encode(sources)
    alone = model.encode(sources[:1])
    torch.testing.assert_close(memory.tokens[:1, : len(sources[0])], alone.tokens)
    (segment,) = memory.segments
    assert segment.words == tuple(sources)


def test_heads_and_layers_are_a_source(pairs: list[AlignedPair]) -> None:
    small = Translator(Vocabulary.of(pairs), 16, 2, 3, 0.0).eval()
    pair = small.read(pairs[0].source, pairs[0].target)
    torch.testing.assert_close(gather_alignment(pair).weights, pair.attention.mean(dim=(0, 1)))
    torch.testing.assert_close(gather_alignment(pair, 2, 1).weights, pair.attention[2, 1])
    with pytest.raises(AttendError, match="there is no layer 3"):
        gather_alignment(pair, 3)


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ([], None, "the source has 0 words"),
        (["1code1"], [], "the target has 0 words"),
        (["1code1"] * LONGEST, None, f"the source has {LONGEST} words"),
        (["1code1"], ["1word1"] * LONGEST, f"the target has {LONGEST} words"),
    ],
)
def test_texts_that_do_not_fit(model: Translator, source, target, sentence: str) -> None:
    with pytest.raises(AttendError, match=sentence):
        model.read(source, target)


def test_the_diagonal() -> None:
    assert diagonal(2, 4) == {(0, 1), (1, 3)}
    assert diagonal(4, 2) == {(0, 0), (1, 0), (2, 1), (3, 1)}
    assert diagonal(3, 3) == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize(("heads", "depth", "layer", "head"), [(1, 1, 0, 0), (2, 3, 2, 1)])
def test_numbers_are_those_of_the_model(
    pairs: list[AlignedPair], heads: int, depth: int, layer: int, head: int
) -> None:
    """What is drawn is computed beside the decoder's pass, and must be what that does."""
    torch.manual_seed(0)
    small = Translator(Vocabulary.of(pairs), 16, heads, depth, 0.1).eval()
    for weight in small.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.4)
    source, target = pairs[0].source, pairs[0].target
    inside = look_inside(small, source, target, layer, head)
    read = small.read(source, target).attention[layer, head]
    torch.testing.assert_close(inside.weights, read)
    assert read.std() > 0.02  # uneven, so that equality says something
    by_hand = inside.queries @ inside.keys.T / (16 / heads) ** 0.5
    torch.testing.assert_close(inside.scores, by_hand)
    torch.testing.assert_close(inside.taken, read @ inside.values)
    assert inside.back.triu(1).abs().max() == 0
    torch.testing.assert_close(inside.among.sum(dim=1), torch.ones(4))


# Headlines


@pytest.mark.parametrize(
    ("caption", "words", "links"),
    [
        (
            "a brown dog is running across the wet grass",
            "brown dog running across grass",
            [(0, 1), (1, 2), (2, 4), (3, 5), (4, 8)],
        ),
        ("two little puppies run", "2 dogs running", [(0, 0), (1, 2), (2, 3)]),
        ("a lady wearing a grey hat", "woman wearing gray hat", [(0, 1), (1, 2), (2, 4), (3, 5)]),
        ("the dog", None, []),
        ("nothing at all", None, []),
        ("a dog that nobody likes near the camera man", None, []),
        ("", None, []),
    ],
)
def test_headlines_by_hand(caption: str, words: str | None, links: list) -> None:
    made = headline(caption.split())
    if words is None:
        assert made is None
        return
    assert made is not None
    assert " ".join(made.target) == words
    assert sorted(made.sure) == links


def test_headlines_of_photos_that_are_held_out(data_dir: Path) -> None:
    recipe = LessonRecipe("headlines", examples=300, held_out=100, steps=1)
    splits = draw(recipe, data_dir)
    assert [len(splits.train), len(splits.dev), len(splits.test)] == [300, 100, 100]
    sources = [pair.source for part in (splits.train, splits.dev, splits.test) for pair in part]
    assert len(sources) == len(set(sources))
    for pair in splits.test:
        assert 2 <= len(pair.target) < len(pair.source)


def test_captions_without_a_headline_are_a_sentence(tmp_path: Path) -> None:
    copied = tmp_path / "flickr8k"
    shutil.copytree(ROOT / "tests" / "fixtures" / "flickr8k", copied)
    tokens = copied / "Flickr8k.token.txt"
    names = [line.split("\t")[0] for line in tokens.read_text().splitlines()]
    tokens.write_text("".join(f"{name}\tNothing at all\n" for name in names))
    with pytest.raises(LessonError, match="train split has a headline"):
        draw(LessonRecipe("headlines", examples=9, held_out=9, steps=1), tmp_path)


# Recipes, folders and commands


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_what_was_saved_is_what_is_opened(
    model: Translator, pairs: list[AlignedPair], tmp_path: Path
) -> None:
    save_lesson(tmp_path, model, RECIPE, Choice(0, 0.25))
    again, choice = open_lesson(tmp_path)
    assert choice == Choice(0, 0.25)
    read, reread = (one.read(pairs[0].source).attention for one in (model, again))
    torch.testing.assert_close(read, reread)


@pytest.mark.parametrize("left", ["nothing", "lesson.json", "model.safetensors", "garbage"])
def test_other_folders_are_refused(model: Translator, tmp_path: Path, left: str) -> None:
    save_lesson(tmp_path, model, RECIPE, Choice(0, 0.25))
    for name in ("lesson.json", "model.safetensors"):
        if left == "garbage":
            (tmp_path / name).write_text("{}")
        elif name != left:
            (tmp_path / name).unlink()
    with pytest.raises(LessonError, match="holds no model"):
        open_lesson(tmp_path)
    shown = run("show", tmp_path, "1code1")
    assert shown.exit_code == 2
    assert "holds no model" in shown.output


@pytest.mark.parametrize("name", ["translation", "headlines"])
def test_recipes_that_ship(name: str) -> None:
    assert load_lesson(name, ["steps=7"]).steps == 7


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("step=3", "did you mean steps?"),
        ("steps=0", "at least 1"),
        ("task=poetry", "one of"),
        ("width=12.5", "a whole number"),
        ("heads=5", "not a multiple"),
    ],
)
def test_recipes_that_do_not_fit(override: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        load_lesson("translation", [override])


def test_the_page_says_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands in their order, the training made small, leave the pictures that it shows."""
    monkeypatch.chdir(tmp_path)
    told = [shlex.split(command) for command in commands(PAGE) if "headlines" not in command]
    for program, lesson, *arguments in told:
        assert (program, lesson) == ("vlm", "lesson")
        small = ["examples=80", "held_out=10", "steps=30"] if arguments[0] == "train" else []
        result = run(*arguments, *small)
        assert result.exit_code == 0, result.output
        if small:
            for figure in ("exact", "alignment error rate", "of a diagonal"):
                assert figure in result.output
    assert json.loads(Path("runs/translation/lesson.json").read_text())["recipe"]["steps"] == 30
    shown = set(re.findall(r"\]\((cross-attention/[\w.-]+)\)", PAGE))
    drawn_here = {Path("figures") / Path(name).name for name in shown}
    of_photo = {Path("figures/patches.webp"), Path("figures/segments.png")}  # need --photo
    for drawn in {Path("grid.png"), *drawn_here} - of_photo:
        with Image.open(drawn) as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    assert {ROOT / "docs" / name for name in shown} == set(
        (ROOT / "docs/cross-attention").iterdir()
    )


def test_the_numbers_of_the_page_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(PAGE, "python")
    names: dict[str, torch.Tensor] = {}
    exec(block, names)
    for line in block.splitlines():
        code, _, said = line.partition("  # ")
        if name := re.match(r"(scores|weights) = ", code):
            numbers = torch.tensor([float(number) for number in said.split(", ")])
            torch.testing.assert_close(names[name[1]], numbers, atol=0.006, rtol=0)
    taken = [float(number) for number in block.rsplit("# ", 1)[1].split(", ")]
    printed = torch.tensor([float(n) for n in re.findall(r"\d+\.\d+", capsys.readouterr().out)])
    torch.testing.assert_close(printed, torch.tensor(taken), atol=0.006, rtol=0)


def test_what_a_photos_words_draw_on(tiny: Captioner, tmp_path: Path) -> None:
    image = tiny.encode(Image.new("RGB", (96, 64), "teal"))
    maps = image.caption(min_tokens=3, max_tokens=4).maps(method="attention")
    draw_patches(tmp_path / "patches.webp", image, maps)
    draw_shares(tmp_path / "segments.png", maps)
    for name in ("patches.webp", "segments.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10


def test_a_grid_as_arrays(model: Translator, tmp_path: Path) -> None:
    save_lesson(tmp_path, model, RECIPE, Choice(0, 0.25))
    shown = run("show", tmp_path, "1CODE1 0code2", "0word2", "--out", tmp_path / "a.npz")
    assert shown.exit_code == 0, shown.output
    assert shown.output.split() == ["0word2"]
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["weights"].shape == (1, 2)


def test_commands_refuse_in_a_sentence(model: Translator, tmp_path: Path) -> None:
    save_lesson(tmp_path, model, RECIPE, Choice(0, 0.25))
    for arguments, sentence in (
        (["show", tmp_path, "dog"], "the model knows no 'dog'"),
        (["show", tmp_path, " "], "the source has 0 words"),
        (["show", tmp_path, "1code1", "--out", "grid.pdf"], ".png or .npz"),
        (
            ["draw", tmp_path, tmp_path, "--source", "1code1", "--place", 99],
            "less than that, not 99",
        ),
        (["train", "prose"], "there is no recipe prose"),
        (["train", "headlines", "--data", tmp_path / "none"], "none"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert sentence in result.output
