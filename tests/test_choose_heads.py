"""Heads are chosen by what hiding does, and the checkpoint names them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from training.data.records import DataError, ImageRef
from training.data.report import Report
from training.evaluation.grounding import choose_heads as choose
from training.evaluation.grounding.places import Example, Named, Place
from vlm.weights.store import load_checkpoint


@pytest.fixture
def examples(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    place = Place(((0.0, 0.0, 1.0, 1.0),))
    return [Example(ImageRef(str(tmp_path / "a.png")), "a dog", (Named("a dog", place),))]


def test_heads_that_together_look_where_hiding_costs_most_are_chosen(tiny, examples, monkeypatch):
    """Half of the truth is planted in one head and half in another; the others look elsewhere."""
    truth = np.zeros((3, 3))
    truth[0, 0] = truth[2, 2] = 1

    def planted(name, layer=None, head=None):
        weights = np.zeros((3, 3))
        if name == "occlusion":
            weights = truth
        elif (layer, head) == (1, 2):
            weights[0, 0] = 1
        elif (layer, head) == (0, 3):
            weights[2, 2] = 1
        else:
            weights[0, 2] = 1
        return lambda image, ids, question=None: [weights] * 2

    monkeypatch.setattr(choose, "by_method", planted)
    heads, agreed = choose.choose_heads(tiny, examples, Report())
    assert heads == [(0, 3), (1, 2)]
    assert agreed == pytest.approx(1)
    with pytest.raises(DataError, match="no caption"):
        choose.choose_heads(tiny, [], Report())


def test_the_checkpoint_names_them_and_loads(tiny, tiny_checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    choose.write_heads(folder, [(0, 3), (1, 2)])
    model, _ = load_checkpoint(folder)
    assert model.config.decoder.alignment_heads == ((0, 3), (1, 2))
    with pytest.raises(ValueError, match="layer 7"):
        choose.write_heads(folder, [(7, 0)])
    assert load_checkpoint(folder)[0].config.decoder.alignment_heads == ((0, 3), (1, 2))
    with pytest.raises(DataError, match="name a checkpoint's folder"):
        choose.write_heads(tmp_path / "nowhere", [(0, 3)])
