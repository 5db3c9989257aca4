"""An epoch's steps: the same for any number of processes, parts and restarts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from small_runs import draw_photos, small_recipe

from training.loop.examples import Batch
from training.loop.inputs import Pixels
from training.loop.steps import EpochSteps, steps_of_epochs
from training.recipe.recipe import Augment, Recipe
from training.recipe.sources import Data, read_data

if TYPE_CHECKING:
    from vlm.captioner import Captioner


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("photos"), 30)


def make(
    tiny: Captioner, data: Data, recipe: Recipe, epoch: int = 0, rank: int = 0, world: int = 1
) -> EpochSteps:
    inputs = Pixels(tiny.preprocess, Augment(crop=0.3, colour=0.3))
    return EpochSteps(data.train, inputs, tiny.tokenizer, 24, recipe, epoch, rank, world)


def learnt(batches: list[Batch]) -> Counter[Any]:
    """Everything that some batches teach, without order: each image's pixels and each row."""
    seen: Counter[Any] = Counter()
    for batch in batches:
        seen.update((key, pixels.sum().item()) for key, pixels in zip(batch.keys, batch.images))
        for chunk in batch.chunks:
            for ids, image in zip(chunk.ids.tolist(), chunk.image.tolist()):
                seen[batch.keys[image], tuple(i for i in ids if i != 0)] += 1
    return seen


def test_an_epoch_is_a_function_of_its_seed_and_number(tiny: Captioner, photos: Path) -> None:
    recipe = small_recipe(photos)
    data = read_data(recipe, photos)
    first, again, later = (make(tiny, data, recipe, epoch) for epoch in (0, 0, 1))
    other = make(tiny, data, small_recipe(photos, seed=1))
    assert torch.equal(first[1].batches[0].images, again[1].batches[0].images)
    assert first[1].batches[0].keys == again[1].batches[0].keys
    assert first[1].batches[0].keys != later[1].batches[0].keys
    assert first[1].batches[0].keys != other[1].batches[0].keys


def test_every_image_is_seen_once_an_epoch_and_sources_by_weight(
    tiny: Captioner, photos: Path
) -> None:
    source = {"path": str(photos), "format": "kohya", "weight": 0.5}
    recipe = small_recipe(sources=[source], epochs=4, batch_images=5)
    data = read_data(recipe, photos)
    epochs = [make(tiny, data, recipe, epoch) for epoch in range(4)]
    assert [len(steps) for steps in epochs] == steps_of_epochs(data.train, recipe) == [3, 3, 3, 3]
    keys = [key for steps in epochs for i in range(len(steps)) for key in steps[i].batches[0].keys]
    assert Counter(keys) == {group.image.key: 2 for group in data.all_train}


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 1), (3, 2)])
def test_processes_and_parts_only_cut_a_step(
    tiny: Captioner, photos: Path, world: int, accumulate: int
) -> None:
    recipe = small_recipe(photos)
    data = read_data(recipe, photos)
    cut = small_recipe(photos, accumulate=accumulate)
    whole = make(tiny, data, recipe, epoch=1)
    ranks = [make(tiny, data, cut, 1, rank, world) for rank in range(world)]
    for step in range(len(whole)):
        parts = [batch for rank in ranks for batch in rank[step].batches]
        assert len(parts) == world * accumulate
        assert learnt(parts) == learnt(list(whole[step].batches))


def test_a_broken_image_is_left_out_and_named(tiny: Captioner, tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "p", 10)
    (folder / "002.png").write_bytes(b"broken")
    recipe = small_recipe(folder)
    data = read_data(recipe, folder)
    part = make(tiny, data, recipe)[0]
    [(source, broken)] = part.broken
    assert source == 0
    assert broken.where.endswith("002.png")
    assert len(part.batches[0].keys) == len(part.batches[0].images) == 7


def test_a_process_without_images_still_has_a_batch(tiny: Captioner, tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "p", 10)
    recipe = small_recipe(folder, batch_images=1)
    part = make(tiny, read_data(recipe, folder), recipe, rank=1, world=2)[0]
    [batch] = part.batches
    assert (batch.keys, batch.targets, len(batch.images)) == ((), 0, 1)
