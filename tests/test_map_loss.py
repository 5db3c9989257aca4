"""The loss that makes attention true: what it takes for truth is what hiding does, and attention learns it."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from small_runs import draw_photos, small_recipe
from test_loop import losses, train

from training.data.records import ImageRef, Record
from training.loop.examples import Batch, collate, examples
from training.loop.map_loss import check_maps, drawn, drops, map_loss, on_grid, some_words, windows
from training.loop.objectives import Likelihood
from training.recipe.recipe import MapLoss, RecipeError, Source
from training.recipe.sources import Group
from vlm.model.config import AdapterConfig
from vlm.model.memory import Memory
from vlm.model.model import IGNORE_INDEX, VisionLanguageModel
from vlm.weights.store import load_checkpoint

if TYPE_CHECKING:
    from vlm.captioner import Captioner

TEXTS = ("a brown dog runs", "two men play football in the park", "a black cat sleeps on the sofa")
HIDING = MapLoss(texts=3, words=8, window=2)


@pytest.fixture
def model(tiny: Captioner) -> VisionLanguageModel:
    model = copy.deepcopy(tiny.model)
    for weight in model.adapter.parameters():  # so that patches matter
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(3))
    return model


@pytest.fixture
def batch(tiny: Captioner) -> Batch:
    rows = []
    for text in TEXTS:
        group = Group(ImageRef(text), (Record(ImageRef(text), (text,)),), Source("x"))
        rows.append(examples(group, tiny.tokenizer, 48, random.Random(0)))
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 9, tiny.model.vision.width, generator=generator)
    return Batch(TEXTS, patches, (3, 3), collate(rows, tiny.tokenizer.pad))


def remembered(model: VisionLanguageModel, batch: Batch) -> Memory:
    assert batch.grid is not None
    return model.remember(batch.images, batch.grid)


def loss_of(model: VisionLanguageModel, batch: Batch, options: MapLoss = HIDING) -> torch.Tensor:
    memory = remembered(model, batch)
    return map_loss(model, memory, model.decoder.project(memory), batch.chunks, options)


def test_windows_are_squares_around_cells_and_are_cut_at_the_border() -> None:
    covered = windows((4, 4), 3, 1).view(16, 4, 4)
    assert covered[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert covered[5].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    coarse = windows((4, 4), 2, 2).view(4, 4, 4)
    assert coarse[1].int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert windows((5, 3), 1, 1).equal(torch.eye(15, dtype=torch.bool))


def test_a_windows_value_lies_around_its_centre() -> None:
    values = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    fine = on_grid(values, (4, 4), 2).view(4, 4)
    assert fine.argmax() == 3  # its upper right corner, on the coarse grid and here
    assert fine[3, 0] == 0
    assert on_grid(values, (2, 2), 1) is values
    assert on_grid(torch.rand(2, 9), (5, 6), 2).shape == (2, 30)


@torch.inference_mode()
def test_drops_are_those_of_a_memory_without_the_patches(
    model: VisionLanguageModel, batch: Batch
) -> None:
    model.eval()
    memory = remembered(model, batch)
    ids, targets, images = drawn(batch.chunks, 3)
    memory = memory.select(images)
    projected = model.decoder.project(memory)
    covered = windows((3, 3), 2, 1)
    lost = drops(model.decoder, projected, memory, ids, targets, covered)

    def logprobs(mask: torch.Tensor | None) -> torch.Tensor:
        hidden = model.decoder(ids, replace(projected, mask=mask)).hidden
        chances = model.decoder.logits(hidden).log_softmax(dim=-1)
        return chances.gather(2, targets.clamp(min=0)[..., None])[..., 0]

    real = targets != IGNORE_INDEX
    for window, hidden in enumerate(covered):
        expected = logprobs(None) - logprobs((~hidden).expand(3, 9))
        torch.testing.assert_close(lost[..., window][real], expected[real], atol=1e-4, rtol=1e-4)
        assert not lost[..., window][~real].any()
    assert lost.abs().max() > 0.1


def test_words_are_drawn_by_how_much_they_depend_on_the_image() -> None:
    targets = torch.tensor([[5, 6, 7, 8, IGNORE_INDEX], [5, IGNORE_INDEX, 7, 8, 9]])
    depends = torch.tensor([[0.0, 4.0, -1.0, 4.0, 9.0], [4.0, 9.0, 4.0, 0.0, 0.0]])
    torch.manual_seed(0)
    counts = torch.zeros(2, 5)
    for _ in range(100):
        kept = some_words(targets, depends, 2) != IGNORE_INDEX
        assert kept.sum(dim=1).tolist() == [2, 2]
        counts += kept
    assert counts[0, [1, 3]].min() > 95
    assert counts[1, [0, 2]].min() > 95
    assert counts[0, 4] == counts[1, 1] == 0
    assert some_words(targets, depends, 9).equal(targets)


def test_attention_learns_to_lie_where_hiding_makes_words_unlikely(
    model: VisionLanguageModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is planted to depend on a patch that the word before it tells."""

    def planted(decoder, projected, memory, ids, targets, covered):  # type: ignore[no-untyped-def]
        patch = ids % 9
        return 3.0 * covered[:, patch].permute(1, 2, 0)  # (R, T, W)

    monkeypatch.setattr("training.loop.map_loss.drops", planted)
    crossing = [s for s in model.decoder.sublayers if s.kind == "c"]
    learnt = [p for sublayer in crossing for p in sublayer.parameters()]
    optimiser = torch.optim.Adam(learnt, lr=1e-2)
    options = replace(HIDING, window=1)
    found = []
    for _ in range(100):
        loss = loss_of(model, batch, options)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    assert min(found) >= 0
    assert found[-1] < 0.4 * found[0]


def test_only_alignment_heads_learn(model: VisionLanguageModel, batch: Batch) -> None:
    model.decoder.config = replace(model.decoder.config, alignment_heads=((1, 2),))
    loss_of(model, batch).backward()
    size = model.decoder.config.width // model.decoder.config.heads
    first, last = (s.body.query.weight.grad for s in model.decoder.sublayers if s.kind == "c")  # type: ignore[union-attr]
    by_head = last.unflatten(0, (-1, size)).abs().amax(dim=(1, 2))
    assert by_head[2] > 0
    assert not by_head[[0, 1, 3]].any()
    assert first.any()  # from where the second layer's query comes


def test_the_truth_is_without_dropout_and_gradient(
    model: VisionLanguageModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def watched(decoder, *arguments):  # type: ignore[no-untyped-def]
        modes.append(decoder.training)
        return drops(decoder, *arguments)

    monkeypatch.setattr("training.loop.map_loss.drops", watched)
    model.train()
    loss_of(model, batch)
    assert modes == [False, False]
    assert model.decoder.training


def test_without_patches_or_words_there_is_nothing_to_learn(
    model: VisionLanguageModel, batch: Batch, tiny: Captioner
) -> None:
    nothing = replace(batch, chunks=collate([[]], tiny.tokenizer.pad))
    loss = loss_of(model, nothing)
    loss.backward()
    assert loss.item() == 0


def test_it_is_added_to_the_mean_of_the_tokens_while_learning(
    model: VisionLanguageModel, batch: Batch
) -> None:
    plain, both = Likelihood(model), Likelihood(model, maps=replace(HIDING, weight=0.5))
    model.eval()
    with torch.no_grad():
        assert both.eval()(batch).item() == plain(batch).item()
        both.training = True  # and not its model, whose dropout would draw
        torch.manual_seed(1)
        more = (both(batch) - plain(batch)).item() / batch.targets
        torch.manual_seed(1)
        assert more == pytest.approx(0.5 * loss_of(model, batch).item(), rel=1e-3)


def test_a_model_that_cannot_learn_it_is_refused(model: VisionLanguageModel) -> None:
    check_maps(model, HIDING)
    with pytest.raises(RecipeError, match="less than the model's 3 x 3 patches, not 3"):
        check_maps(model, MapLoss(window=3))
    model.config = replace(model.config, adapter=AdapterConfig("pool", 4, 4))
    with pytest.raises(RecipeError, match="pooled queries"):
        check_maps(model, HIDING)


def test_a_run_learns_maps_and_its_checkpoint_names_the_heads(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 20)
    maps = {"window": 2, "texts": 2, "heads": [[1, 0], [1, 3]]}
    metrics = train(small_recipe(photos, maps=maps, epochs=2), photos, tmp_path / "run")
    assert losses(metrics)[-1] < losses(metrics)[0]
    model, _ = load_checkpoint(tmp_path / "run" / "model")
    assert model.config.decoder.alignment_heads == ((1, 0), (1, 3))
    again = small_recipe(photos, init=str(tmp_path / "run" / "model"), epochs=1)
    train(again, photos, tmp_path / "again")  # a stage without maps keeps them
    model, _ = load_checkpoint(tmp_path / "again" / "model")
    assert model.config.decoder.alignment_heads == ((1, 0), (1, 3))
