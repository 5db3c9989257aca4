"""A stage that learns to use documents: it changes what is read beside them, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import draw_photos, small_recipe
from test_loop import losses, train

from training.recipe.recipe import RecipeError
from vlm.weights.store import load_checkpoint

STAGE = {
    "validation": {"metric": "last", "images": 0},
    "documents": {"passages": 3, "questions": 4, "captions": 0.2},
    "optimiser": {"learning_rate": {"adapter": 0, "decoder": 0, "documents": 2e-3}},
}


def test_a_stage_learns_to_read_passages_and_leaves_the_rest(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 20)
    decoder = {"width": 32, "depth": 2, "heads": 4, "max_length": 96, "vocab_size": 300}
    train(small_recipe(photos, epochs=1, decoder=decoder), photos, tmp_path / "first")
    start = str(tmp_path / "first" / "model")
    stage = small_recipe(photos, init=start, epochs=20, **STAGE)
    curve = losses([m for m in train(stage, photos, tmp_path / "run") if "dev" not in m])
    assert curve[-1] < curve[0] - 0.5
    before, _ = load_checkpoint(start)
    after, _ = load_checkpoint(tmp_path / "run" / "model")
    assert after.config.documents is not None
    assert after.config.calibration == before.config.calibration
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name]), name
    # A later stage goes on with the layers that are there.
    again = small_recipe(photos, init=str(tmp_path / "run" / "model"), epochs=1, **STAGE)
    assert losses(train(again, photos, tmp_path / "again"))[0] < curve[0] - 0.5


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {**STAGE, "optimiser": {"learning_rate": {"documents": 1e-3}}},
            "a learning rate of theirs alone",
        ),
        ({"optimiser": STAGE["optimiser"]}, "must be 0 without documents"),
    ],
)
def test_recipes_that_would_not_do_it_are_refused(tmp_path: Path, values, told) -> None:
    with pytest.raises(RecipeError, match=told):
        small_recipe(draw_photos(tmp_path / "photos", 2), **{"init": "small", **values})
