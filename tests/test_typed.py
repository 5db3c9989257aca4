"""Any value at any key of a configuration, a recipe or the options fits, or is one sentence that names the key."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import values as recipe_values
from test_config import CONFIG

from training.recipe.recipe import Recipe, RecipeError, plain
from vlm.model.config import ConfigError, DecoderConfig, ModelConfig
from vlm.options import OptionError, Options, choose
from vlm.typed import FieldError, build

WORDS = ["", "256", "true", "no", "pool", "scm", "caption", "scst", "last", "adam", "0.1", "text"]
NUMBERS = [0, 1, -1, 3, 256, 0.5, -0.0, 1e-5, 1e308, math.nan, math.inf, -math.inf, 10**400]
SCALARS = st.sampled_from([None, True, False, *WORDS, *NUMBERS]) | st.text() | st.integers()
JSON = st.recursive(
    SCALARS | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CONFIGURATION = json.loads(json.dumps(CONFIG.to_dict()))
RECIPE = plain(build(Recipe, recipe_values(), RecipeError, "a recipe"))


def paths(values: Any) -> list[tuple[str | int, ...]]:
    """All keys of a mapping, also of those in it and in its lists."""
    if isinstance(values, dict):
        parts = list(values.items())
    elif isinstance(values, list):
        parts = list(enumerate(values))
    else:
        return [()]
    below = [(key, *path) for key, part in parts for path in paths(part)]
    return below if not parts else [*below, ()]


def changed(values: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    values = copy.deepcopy(values)
    target = values
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return values


def assert_names(error: FieldError, path: tuple[str | int, ...]) -> None:
    """One sentence, with the last name of the path."""
    names = [key for key in path if isinstance(key, str)]
    assert not names or names[-1] in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(paths(CONFIGURATION)), JSON)
def test_any_value_in_a_configuration(path, value):
    try:
        config = ModelConfig.from_dict(changed(CONFIGURATION, path, value))
    except ConfigError as error:
        assert_names(error, path)
    else:
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(paths(RECIPE)), JSON)
def test_any_value_in_a_recipe(path, value):
    try:
        recipe = build(Recipe, changed(RECIPE, path, value), RecipeError, "a recipe")
    except RecipeError as error:
        assert_names(error, path)
    else:
        assert build(Recipe, plain(recipe), RecipeError, "a recipe") == recipe


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([field.name for field in fields(Options)]), JSON)
def test_any_value_of_an_option(name, value):
    for make in (lambda: Options(**{name: value}), lambda: choose(Options(), {name: value})):
        try:
            assert type(getattr(make(), name)) in (int, float, bool, type(None))
        except OptionError as error:
            assert_names(error, (name,))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"beams": "3"}, "beams must be a whole number, not '3'"),
        ({"beams": True}, "beams must be a whole number, not True"),
        ({"beams": 2.5}, "beams must be a whole number, not 2.5"),
        ({"beams": None}, "beams must be a whole number, not None"),
        ({"sample": "yes"}, "sample must be true or false, not 'yes'"),
        ({"sample": 1}, "sample must be true or false, not 1"),
        ({"top_p": "0.5"}, "top_p must be a number, not '0.5'"),
        ({"temperature": math.inf}, r"temperature must be in \[1e-6, 1e6\], not inf"),
        ({"temperature": 1e300}, r"temperature must be in \[1e-6, 1e6\], not 1e\+300"),
        ({"top_p": 1e-300}, r"top_p must be in \[1e-6, 1\], not 1e-300"),
        (
            {"repetition_penalty": 1e-300},
            r"repetition_penalty must be in \[1e-3, 1e3\], not 1e-300",
        ),
        ({"beams": 10**21}, r"beams must be in \[1, 10000\], not 1(000){7}"),
        ({"candidates": 0}, r"candidates must be in \[1, 10000\], not 0"),
        ({"beam": 3}, r"unknown key beam; did you mean beams\?"),
    ],
)
def test_an_option_that_does_not_fit_is_one_sentence(tiny, given, says):
    image = tiny.encode(np.zeros((96, 96, 3), np.uint8))
    for ask in (image.caption, lambda **options: image.ask("is there a dog?", **options)):
        with pytest.raises(OptionError, match=f"^{says}$"):
            ask(**given)


def test_numbers_of_numpy_and_lists_are_taken_as_they_are_meant():
    assert type(Options(beams=np.int64(3)).beams) is int
    assert type(Options(length_penalty=np.float32(0.5)).length_penalty) is float
    assert type(DecoderConfig(vocab_size=10, mlp_ratio=2).mlp_ratio) is float
    tasks = ["vqa"]
    assert ModelConfig(CONFIG.vision, DecoderConfig(vocab_size=10), tasks=tasks).tasks == ("vqa",)
