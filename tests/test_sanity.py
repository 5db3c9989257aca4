"""Checks of maps: what should change them does, and what should not does not; a map that knows nothing is found out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.records import ImageRef
from training.data.report import Report
from training.evaluation.grounding.explainers import BASELINES, by_method
from training.evaluation.grounding.places import Example, Named, Place
from training.evaluation.grounding.sanity import check, destroyed, rank_correlation, shifted

WHOLE = Place(((0.0, 0.0, 1.0, 1.0),))


@pytest.mark.parametrize(
    ("one", "other", "correlation"),
    [
        ([1, 2, 3], [10, 200, 3000], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 1, 1], [1, 2, 3], 0),
        ([1, 2, 2, 3], [1, 2, 2, 3], 1),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
    ],
)
def test_rank_correlation_is_spearmans(one, other, correlation):
    found = rank_correlation(np.array([one], dtype=float), np.array([other], dtype=float))
    assert found == pytest.approx(correlation)


def test_layers_are_destroyed_from_the_last_down_and_the_model_stays(tiny):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    changed = []
    for what, broken in destroyed(tiny.model):
        own = broken.state_dict()
        changed.append((what, {n.rsplit(".", 2)[0] for n in own if not own[n].equal(before[n])}))
        for name, value in own.items():
            torch.testing.assert_close(value.float().sum(), before[name].float().sum())
    assert [what for what, _ in changed] == ["last layer", "last 2 layers", "adapter, too"]
    assert not any(name.startswith("decoder.sublayers.0") for name in changed[0][1])
    assert any(name.startswith("decoder.sublayers.5") for name in changed[0][1])
    assert any(name.startswith("decoder.sublayers.0") for name in changed[1][1])
    assert any(name.startswith("adapter") for name in changed[2][1])
    assert all(value.equal(before[name]) for name, value in tiny.model.state_dict().items())


def test_a_picture_is_moved_to_the_right():
    pixels = np.arange(8 * 8 * 3).reshape(8, 8, 3).astype(np.uint8)
    moved = np.asarray(shifted(Image.fromarray(pixels), 0.25))
    np.testing.assert_array_equal(moved[:, 2:], pixels[:, :-2])
    np.testing.assert_array_equal(moved[:, 1], pixels[:, 0])


def test_maps_that_know_nothing_are_found_out(tiny, tmp_path):
    examples = []
    for number in range(3):
        generator = np.random.default_rng(number)
        small = generator.integers(256, size=(6, 6, 3)).astype(np.uint8)
        file = tmp_path / f"{number}.png"
        Image.fromarray(small).resize((96, 96)).save(file)
        named = (Named("a dog", WHOLE), Named("a cat", WHOLE))
        examples.append(Example(ImageRef(str(file)), "a dog and a cat", named))
    judged = {
        "attention": by_method("attention"),
        "edges": BASELINES["edges"],
        "centre": BASELINES["centre"],
    }
    found = check(tiny, examples, judged, Report())
    value = {n: {what: metric.value for what, metric in by.items()} for n, by in found.items()}
    for name in ("edges", "centre"):  # which know no word and no model
        assert value[name]["another word"] == pytest.approx(1)
        assert value[name]["last 2 layers"] == pytest.approx(1)
    assert value["edges"]["another picture"] < 0.9
    assert value["edges"]["mirrored"] > 0.9
    assert value["centre"]["another picture"] == pytest.approx(1)
    assert value["attention"]["last 2 layers"] < 0.9
    assert value["attention"]["another word"] < 0.99
