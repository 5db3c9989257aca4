"""What training/README.md tells people to type works, in its order, and what it says of formats is so."""

from __future__ import annotations

import json
import random
import re
import shutil
from inspect import signature
from pathlib import Path

import pytest
from documentation import ROOT, commands, run

from training.data.readers import READERS, read
from training.recipe.recipe import load_recipe

PAGE = (ROOT / "training" / "README.md").read_text()
RECIPES = ROOT / "training" / "recipes"
FIXTURES = ROOT / "tests" / "fixtures"
MADE_IN_TESTS = {"webdataset", "datasets"}
TEXTS = {".txt", ".json", ".jsonl", ".csv"}


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the first table under a heading, by the name in their first cell."""
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(.*?)` \|(.*)\|$", part, re.MULTILINE)
    return {name: re.split(r"(?<!\\)\|", cells) for name, cells in lines}


def squeezed(text: str) -> str:
    """The text without white space, which JSON files lay out as they like."""
    return re.sub(r"\s+", "", text.replace("\\|", "|"))


def test_every_format_has_a_row_with_a_record_of_its_fixture() -> None:
    rows = table("Formats")
    assert rows.keys() == READERS.keys()
    for name in READERS.keys() - MADE_IN_TESTS:
        files = [f for f in sorted((FIXTURES / name).rglob("*")) if f.suffix in TEXTS]
        written = [squeezed(file.read_text()) for file in files]
        for record in re.findall(r"`([^`]+)`", rows[name][1]):
            if record == "5_square/0.txt":
                continue  # a file's name
            for fragment in squeezed(record).split("…"):
                assert any(fragment in text for text in written), (name, fragment)


def test_every_option_of_a_reader_is_named() -> None:
    for name, cells in table("Formats").items():
        own = signature(READERS[name]).parameters.keys() - signature(read).parameters.keys()
        for option in own:
            assert f"`{option}`" in cells[0], (name, option)


def test_every_recipe_has_a_row() -> None:
    rows = table("Recipes and what they gave")
    assert {file.name for file in RECIPES.glob("*.yaml")} <= rows.keys()


def test_every_override_is_one_that_the_recipe_takes() -> None:
    overrides = set(re.findall(r"`([\w.]+=[\w.-]+)`", PAGE)) - {"key=value"}
    assert len(overrides) > 5
    for override in overrides:
        load_recipe(RECIPES / "finetune.yaml", [override])


@pytest.fixture(scope="module")
def checkout(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new user's folder: 40 photos of Flickr8k's training images with one caption each."""
    folder = tmp_path_factory.mktemp("walk") / "main"
    folder.mkdir()
    for name in ("assets", "training", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    (folder.parent / "shared").mkdir()
    (folder.parent / "shared" / "data").symlink_to(data_dir)
    records = list(read(data_dir / "flickr8k", "flickr8k", "train"))
    (folder / "photos").mkdir()
    for record in random.Random(0).sample(records, 40):
        image = Path(record.image.path)
        shutil.copy(image, folder / "photos")
        (folder / "photos" / image.name).with_suffix(".txt").write_text(record.texts[0])
    return folder


@pytest.fixture(scope="module")
def walk(checkout: Path) -> dict[str, str]:
    """What each command of the page printed, run one after the other."""
    printed = {}
    for command in commands(PAGE):
        if not command.startswith("pip "):
            done = run(command, checkout)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert done.stdout.strip(), command
            printed[command] = done.stdout
    return printed


@pytest.mark.slow
def test_a_new_users_folder_becomes_a_model_a_report_and_captions(
    checkout: Path, walk: dict[str, str]
) -> None:
    photos = sorted(path.name for path in (checkout / "photos").glob("*.jpg"))
    [captions] = [text for command, text in walk.items() if "xargs" in command]
    lines = [line.partition(": ") for line in captions.splitlines()]
    assert sorted(name for name, _, _ in lines) == [f"photos/{name}" for name in photos[9::10]]
    assert all(len(caption.split()) > 2 for _, _, caption in lines)
    out = checkout / "runs" / "photos"
    report = (out / "report.html").read_text()
    for part in ("Curves", "Best examples", "Worst examples", "people: ", "batch_images: 16"):
        assert part in report
    assert (out / "model" / "model.safetensors").stat().st_size > 10_000_000
    assert "32 images to learn from, 4 for validation" in (out / "log.txt").read_text()


@pytest.mark.slow
def test_the_other_commands_do_what_the_page_says(checkout: Path, walk: dict[str, str]) -> None:
    [compared] = [text for command, text in walk.items() if command.endswith("--json")]
    assert json.loads(compared)["n"] == 4
    assert "2 process(es)" in (checkout / "runs" / "two" / "log.txt").read_text()
    assert (checkout / "confidence.png").exists()
    assert len((checkout / "said.jsonl").read_text().splitlines()) == 20
    [shards] = [text for command, text in walk.items() if command.endswith("stats shards")]
    assert re.search(r"synthetic\W+[1-9]", shards)
