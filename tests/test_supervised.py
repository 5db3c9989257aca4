"""The row that has seen boxes: the fit finds the map that points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.records import DataError, ImageRef
from training.data.report import Report
from training.evaluation.grounding import supervised
from training.evaluation.grounding.explainers import by_method
from training.evaluation.grounding.places import Example, Named, Place


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return ImageRef(str(tmp_path / "a.png"))


def test_the_fit_finds_the_map_that_points_into_the_boxes(tiny, photo, monkeypatch):
    """Of four maps one points at what a word names, one is even, and two point at where nothing is."""

    def planted(image, ids, question=None):
        maps = torch.full((len(tiny.tokenizer.words(ids)), 4, 3, 3), 0.1)
        maps[:2, 1, 0, 0] = maps[3:, 1, 2, 2] = 9
        maps[:, 2:, 0, 2] = 9
        return maps.log()

    monkeypatch.setattr(supervised, "log_maps", planted)
    dog, cat = (Place(((low, low, low + 1 / 3, low + 1 / 3),)) for low in (0.0, 2 / 3))
    named = (Named("a dog", dog), Named("a horse", dog), Named("a cat", cat))
    boxed = supervised.read_boxed(tiny, [Example(photo, "a dog and a cat", named)], Report())
    assert boxed.phrase.tolist() == [0, 0, 1, 1]
    powers = supervised.fit(boxed)
    assert powers[1] > 1
    assert powers[2:].tolist() == [0, 0]
    maps = supervised.by_powers(powers)(None, tiny.tokenizer.encode("a dog and a cat"))
    assert [int(m.argmax()) for m in (maps[1], maps[4])] == [0, 8]
    assert float(maps[1].sum()) == pytest.approx(1)
    with pytest.raises(DataError, match="no caption has a phrase"):
        supervised.read_boxed(tiny, [Example(photo, "a dog", ())], Report())


def test_a_map_alone_to_the_power_of_one_is_the_methods(tiny, photo):
    image, ids = tiny.encode(photo.path), tiny.tokenizer.encode("a brown dog and a cat")
    maps = supervised.by_powers(torch.tensor([1.0, 0.0]))(image, ids)
    for own, other in zip(maps, by_method("logit")(image, ids)):
        raised = other + supervised.FLOOR / other.size
        np.testing.assert_allclose(own, raised / raised.sum(), atol=1e-5)


def test_powers_are_kept_and_another_file_is_refused(tmp_path):
    file = tmp_path / "powers.json"
    supervised.write_powers(file, torch.tensor([0.25, 0.75]), 300)
    assert "300 photos of Flickr8k train" in file.read_text()
    assert supervised.read_powers(file).tolist() == [0.25, 0.75]
    file.write_text("[]")
    with pytest.raises(DataError, match="holds no powers"):
        supervised.read_powers(file)
    with pytest.raises(DataError, match="cannot be written"):
        supervised.write_powers(tmp_path / "no" / "powers.json", torch.ones(2), 300)
