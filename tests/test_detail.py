"""A grid twice as fine as the encoder's: each token is a cell, at its place, and everything that follows takes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import small_recipe
from torch import Tensor, nn

from training.recipe.models import start_model
from vlm.captioner import Captioner
from vlm.model.config import AdapterConfig, ConfigError
from vlm.model.memory import grid_positions
from vlm.model.model import Adapter, VisionLanguageModel
from vlm.weights.store import load_checkpoint, save_checkpoint

VISION = {"name": "test_efficientnet", "size": [96, 96], "weights": "random", "detail": True}
PHOTO = Path(__file__).parent / "fixtures/kaggle/Images/100_k.jpg"


def test_tokens_are_cells_row_by_row() -> None:
    """Of 2 x 3 patches, with detail of one channel that numbers the cells of the 4 x 6 grid."""
    adapter = Adapter("grid", 5, 8, detail_width=1)
    adapter.detail_norm = nn.Identity()  # type: ignore[assignment]
    for parameter in adapter.project.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(adapter.detail_project.weight)
    nn.init.zeros_(adapter.detail_project.bias)
    numbers = torch.arange(24.0).view(1, 1, 4, 6)
    cells = nn.functional.pixel_unshuffle(numbers, 2).flatten(2).transpose(1, 2)  # (1, 6, 4)
    memory = adapter(torch.cat([torch.randn(1, 6, 5), cells], dim=-1), (2, 3))
    assert memory.image.grid == (4, 6)
    values = memory.tokens[0, :, 0] - grid_positions((4, 6), 8)[:, 0]
    torch.testing.assert_close(values, torch.arange(24.0))


@pytest.fixture(scope="module")
def detailed(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    folder = tmp_path_factory.mktemp("detail")
    model, tokenizer = start_model(
        small_recipe(vision=VISION), ["a red circle", "a blue square"], folder / "tokenizer.json"
    )
    return Captioner(model, tokenizer)


def encode(captioner: Captioner, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        return captioner.model.encode(pixels).tokens[0]


def test_a_change_in_a_corner_changes_most_the_cells_there(detailed: Captioner) -> None:
    pixels = torch.zeros(1, 3, 96, 96)
    changed = pixels.clone()
    changed[..., -12:, :12] = 3.0  # the bottom left
    difference = (encode(detailed, changed) - encode(detailed, pixels)).norm(dim=-1).view(6, 6)
    row, column = divmod(int(difference.argmax()), 6)
    assert (row, column) == (5, 0)


def test_maps_have_the_finer_grid_and_checkpoints_keep_it(
    detailed: Captioner, tmp_path: Path
) -> None:
    maps = detailed.encode(PHOTO).explain("a red circle").maps()
    assert {word.grid for word in maps} == {(6, 6)}
    assert isinstance(detailed.model, VisionLanguageModel)
    save_checkpoint(tmp_path, detailed.model, detailed.tokenizer, torch.float32)
    again = Captioner(*load_checkpoint(tmp_path)).encode(PHOTO).explain("a red circle")
    assert again.score == pytest.approx(detailed.encode(PHOTO).explain("a red circle").score)


def test_only_a_grid_has_cells(detailed: Captioner) -> None:
    with pytest.raises(ConfigError, match=r"detail needs adapter\.kind grid, not linear"):
        replace(detailed.model.config, adapter=AdapterConfig("linear"))
