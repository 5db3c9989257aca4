"""Recipes: what is wrong is named, what is left out is filled in, and the shipped ones load."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_runs import small_recipe, values, write_recipe

from training.recipe.recipe import RecipeError, load_recipe

RECIPES = sorted((Path(__file__).parents[1] / "training" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads(path: Path) -> None:
    assert load_recipe(path).sources


def test_a_shipped_recipe_is_known_by_its_name_and_a_file_of_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("finetune") == load_recipe(RECIPES[0].with_stem("finetune"))
    (tmp_path / "finetune").write_text(small_recipe(epochs=9).to_yaml())
    assert load_recipe("finetune") == small_recipe(epochs=9)


def test_what_is_printed_is_read_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = small_recipe(precision="bf16", dropout=0.25)
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_overrides_reach_into_mappings_lists_and_what_was_left_out(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml")
    overrides = (
        "optimiser.learning_rate.decoder=1e-4",
        "sources.0.mirror=false",
        "validation.patience=3",
        "bad_loss.action=skip",
        "dropout=0",
        "precision=no",
    )
    recipe = load_recipe(path, overrides)
    assert recipe.optimiser.learning_rate.decoder == 1e-4
    assert recipe.optimiser.learning_rate.adapter == 3e-3
    assert not recipe.sources[0].mirror
    assert recipe.validation.patience == 3
    assert recipe.bad_loss.action == "skip"
    assert recipe.dropout == 0.0
    assert recipe.precision == "no"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "unknown key epoch; did you mean epochs?"),
        ({"optimiser": {"warmup": 3}}, "unknown key optimiser.warmup; did you mean"),
        ({"sources": [{"path": "a", "xyz": 1}]}, r"unknown key sources\[0\].xyz; known: path"),
        ({"epochs": "three"}, "epochs must be a whole number, not 'three'"),
        ({"epochs": 2.5}, "epochs must be a whole number, not 2.5"),
        ({"epochs": True}, "epochs must be a whole number, not True"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"dropout": "much"}, "dropout must be a number"),
        ({"dropout": 1}, r"dropout must be in \[0, 1\), not 1"),
        ({"blind": "yes please"}, "blind must be true or false"),
        ({"sources": []}, "sources must be at least one source"),
        ({"sources": {}}, "sources must be a list"),
        ({"sources": [{}]}, r"sources\[0\].path is missing"),
        (
            {"sources": [{"path": "a", "weight": 0}]},
            r"sources\[0\].weight must be positive and finite, not 0",
        ),
        ({"sources": [{"path": "a", "options": 3}]}, r"sources\[0\].options must be a mapping"),
        ({"vision": {"name": "x", "size": [96]}}, "vision.size must have 2 values, not 1"),
        ({"decoder": {"width": 30, "heads": 4}}, "decoder.width must be a multiple of heads 4"),
        ({"precision": "fp8"}, "precision must be one of no, fp16, bf16, not 'fp8'"),
        ({"objective": "scst", "label_smoothing": 0}, "init is missing"),
        ({"objective": "scst", "init": "small"}, "label_smoothing must be 0"),
        ({"init": "small", "decoder": {}}, "init brings its own"),
        ({"vision": None}, "vision is missing"),
        (
            {"validation": {"metric": "CIDEr", "images": 0}},
            "validation.images must be at least 2 for",
        ),
        ({"validation": {"metric": "last", "patience": 2}}, "validation.patience must be 0"),
        ({"optimiser": {"name": "adamz"}}, "optimiser.name must be .* such as adam.*not adamz"),
        ({"scst": {"samples": 1}}, "scst.samples must be at least 2"),
        (
            {"optimiser": {"learning_rate": {"adapter": 0, "decoder": 0}}},
            "optimiser.learning_rate.decoder must be positive",
        ),
        (
            {"blind": True, "optimiser": {"learning_rate": {"vision": 1e-5}}},
            "optimiser.learning_rate.vision must be 0",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        small_recipe(**changes)


@pytest.mark.parametrize("override", ["epochs", "=3", "epochs.deep=3", "sources.7.path=x", "a={"])
def test_an_override_that_fits_nowhere_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match=r"override|value of a"):
        load_recipe(write_recipe(tmp_path / "r.yaml"), [override])


def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe .*of one that comes .*: finetune, "):
        load_recipe(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="a recipe must be a mapping"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_patches_are_cached_only_where_an_image_always_gives_the_same() -> None:
    assert small_recipe().caches_patches
    assert not small_recipe(augment={"crop": 0.2}).caches_patches
    assert not small_recipe(optimiser={"learning_rate": {"vision": 1e-5}}).caches_patches
    assert not small_recipe(blind=True).caches_patches


def test_scientific_notation_without_a_point_is_a_number(tmp_path: Path) -> None:
    text = yaml.safe_dump(values()).replace("0.003", "3e-3")
    (tmp_path / "r.yaml").write_text(text)
    assert load_recipe(tmp_path / "r.yaml") == small_recipe()
    assert load_recipe(tmp_path / "r.yaml", ["dropout=1E-1"]).dropout == 0.1
