"""The loop in one process: exact to go on, indifferent to how a step is cut, and strict with bad losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from small_runs import draw_photos, small_recipe

import training.loop.loop as loop
from training.loop.checkpoints import RunFolder, TrainingError
from training.loop.features import FeatureCache, build_features
from training.loop.inputs import CachedPatches, Inputs, Pixels
from training.loop.monitor import Monitor, read_metrics
from training.loop.objectives import Likelihood
from training.recipe.models import start_model
from training.recipe.recipe import Recipe
from training.recipe.sources import read_data, texts_of
from vlm.model.model import VisionLanguageModel
from vlm.weights.store import load_checkpoint

NAN = math.nan


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("photos"), 30)


def train(
    recipe: Recipe, photos: Path, out: Path, cache: Path | None = None
) -> list[dict[str, Any]]:
    """Train without the command line, and without the feature cache if it is not named; return the run's figures."""
    folder = RunFolder(out)
    folder.claim(recipe)
    data = read_data(recipe, photos)
    texts = texts_of(data.all_train)
    model, tokenizer = start_model(recipe, texts, folder.model / "tokenizer.json")
    inputs: Inputs = Pixels(model.config.vision.preprocess, recipe.augment)
    if cache is not None:
        refs = [group.image for group in data.all_train + data.all_dev]
        build_features(cache, model.vision, refs, mirrored=refs, workers=0)
        inputs = CachedPatches(FeatureCache(cache))
    AcceleratorState._reset_state(reset_partial_state=True)  # one a process, but here are many runs
    loop.train(model, tokenizer, data, inputs, recipe, folder, loop.make_accelerator(recipe))
    return read_metrics(out / "metrics.jsonl")


def losses(metrics: list[dict[str, Any]]) -> list[float]:
    """Each step's loss, and each validation's."""
    return [m["dev"]["loss"] if "dev" in m else m["loss"] for m in metrics]


def test_it_learns_and_keeps_the_averaged_weights(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(photos, epochs=6, validation={"images": 50})
    metrics = train(recipe, photos, tmp_path / "run")
    assert len([m for m in metrics if "dev" not in m]) == 6 * 3
    curve = losses(metrics)
    assert curve[-1] < curve[3] < curve[0]
    assert all(m["dev"]["CIDEr"] >= 0 for m in metrics if "dev" in m)
    model, _ = load_checkpoint(tmp_path / "run" / "model")
    assert model.config.decoder.depth == 2
    state = RunFolder(tmp_path / "run").load()
    assert state is not None
    averaged = state["averaged"]["decoder"]["final_norm.weight"]
    assert torch.allclose(model.decoder.final_norm.weight, averaged, atol=1e-3)
    assert not torch.equal(averaged, state["model"]["decoder"]["final_norm.weight"])


def test_what_is_kept_shares_the_weights_it_started_from(photos: Path, tmp_path: Path) -> None:
    train(small_recipe(photos, epochs=1), photos, tmp_path / "start")
    first = tmp_path / "start/model"
    kept = []
    for share in (0.0, 0.25):
        recipe = small_recipe(photos, init=str(first), epochs=2, start_share=share)
        train(recipe, photos, tmp_path / f"run{share}")
        kept.append(load_checkpoint(tmp_path / f"run{share}" / "model")[0].state_dict())
    moved = 0.0
    for name, begun in load_checkpoint(first)[0].named_parameters():
        expected = 0.25 * begun + 0.75 * kept[0][name]
        torch.testing.assert_close(kept[1][name], expected, atol=1e-3, rtol=1e-2)
        moved = max(moved, float((kept[0][name] - begun).abs().max()))
    assert moved > 0.005


@pytest.mark.parametrize("stop", [1, 5, 6])
def test_a_run_that_was_interrupted_goes_on_exactly(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Dropout, augmentation, mirroring, the optimiser, the averaged weights and the order all go on."""
    recipe = small_recipe(photos, dropout=0.2, augment={"crop": 0.3, "colour": 0.2})
    whole = train(recipe, photos, tmp_path / "whole")

    step = Monitor.step

    def interrupt(self: Monitor, figures: dict[str, Any]) -> None:
        step(self, figures)
        if figures["step"] == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Monitor, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, photos, tmp_path / "cut")
    monkeypatch.setattr(Monitor, "step", step)
    assert losses(train(recipe, photos, tmp_path / "cut")) == losses(whole)
    first, second = (load_checkpoint(tmp_path / name / "model")[0] for name in ("whole", "cut"))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_run_does_nothing_more(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(photos)
    first = train(recipe, photos, tmp_path / "run")
    assert train(recipe, photos, tmp_path / "run") == first


@pytest.mark.parametrize("change", [{"accumulate": 4}, {"gradient_checkpointing": True}])
def test_how_a_step_is_computed_does_not_matter(
    photos: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    plain = train(small_recipe(photos, dropout=0.0), photos, tmp_path / "plain")
    cut = train(small_recipe(photos, dropout=0.0, **change), photos, tmp_path / "cut")
    assert losses(cut) == pytest.approx(losses(plain), rel=1e-4)


def test_an_unfrozen_encoder_learns_and_a_frozen_one_does_not(photos: Path, tmp_path: Path) -> None:
    rates = {"vision": 1e-3, "adapter": 1e-3, "decoder": 1e-3}
    unfrozen = small_recipe(
        photos, optimiser={"learning_rate": rates, "ema": 0.5}, gradient_checkpointing=True
    )
    start = start_model(unfrozen, ["a dog"], tmp_path / "tokenizer.json")[0]
    train(unfrozen, photos, tmp_path / "unfrozen")
    train(small_recipe(photos), photos, tmp_path / "frozen")

    def moved(name: str) -> set[str]:
        trained = load_checkpoint(tmp_path / name / "model")[0].vision.state_dict()
        stored = {key: value.half().float() for key, value in start.vision.state_dict().items()}
        return {key for key in stored if not torch.equal(stored[key], trained[key].float())}

    assert moved("frozen") == set()
    assert "trunk.conv_stem.weight" in moved("unfrozen")
    assert not any("running" in key for key in moved("unfrozen"))  # of batch norms


@pytest.mark.parametrize("cached", [False, True])
def test_mixed_precision_follows_full_precision(photos: Path, tmp_path: Path, cached: bool) -> None:
    cache = tmp_path / "cache" if cached else None
    common: dict[str, Any] = {"dropout": 0.0, "validation": {"images": 9}}
    full = train(small_recipe(photos, **common), photos, tmp_path / "full", cache)
    recipe = small_recipe(photos, **common, precision="bf16")
    mixed = train(recipe, photos, tmp_path / "mixed", cache)
    assert losses(mixed) == pytest.approx(losses(full), rel=2e-2)
    assert losses(mixed) != losses(full)


def test_training_stops_when_the_metric_no_longer_improves(photos: Path, tmp_path: Path) -> None:
    optimiser = {"learning_rate": {"adapter": 1e-12, "decoder": 1e-12}}  # nothing will improve
    validation = {"metric": "CIDEr", "images": 50, "patience": 2}
    recipe = small_recipe(photos, optimiser=optimiser, validation=validation, epochs=9)
    metrics = train(recipe, photos, tmp_path / "run")
    assert sum("dev" in m for m in metrics) == 3
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "stopped after epoch 3 of 9: dev CIDEr was no better 2 times running" in log
    assert train(recipe, photos, tmp_path / "run") == metrics


def test_the_best_weights_are_kept_not_the_last(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr("training.loop.validation.Dev.loss", lambda *_: next(values))
    published: list[VisionLanguageModel] = []
    monkeypatch.setattr(RunFolder, "publish", lambda _, model, __: published.append(model))
    train(small_recipe(photos), photos, tmp_path / "run")
    assert len(published) == 2


@pytest.mark.parametrize(("values", "kept"), [((3.0, NAN, 2.0), 2), ((NAN, 3.0, NAN), 1)])
def test_a_score_that_is_no_number_is_never_better_and_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: Any, kept: int
) -> None:
    given = iter(values)
    monkeypatch.setattr("training.loop.validation.Dev.loss", lambda *_: next(given))
    published: list[VisionLanguageModel] = []
    monkeypatch.setattr(RunFolder, "publish", lambda _, model, __: published.append(model))
    train(small_recipe(photos), photos, tmp_path / "run")
    assert len(published) == kept
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("dev loss is not a number, so this model is not kept") == 3 - kept


def test_a_run_of_which_no_model_was_kept_does_not_end_well(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.validation.Dev.loss", lambda *_: NAN)
    validation = {"images": 0, "patience": 2}
    for _ in range(2):  # also when it is started again
        with pytest.raises(TrainingError, match="no validation gave a loss that is a number"):
            train(small_recipe(photos, validation=validation), photos, tmp_path / "run")
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sum("dev" in m for m in metrics) == 2  # patience counts it as no better


def test_a_metric_that_no_readable_image_gives_is_named(tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 30)
    for number in (8, 18, 28):  # all of dev
        (folder / f"{number:03d}.png").write_bytes(b"broken")
    recipe = small_recipe(folder, validation={"metric": "CIDEr", "images": 9}, epochs=1)
    with pytest.raises(TrainingError, match="no validation gave a CIDEr that is a number"):
        train(recipe, folder, tmp_path / "run")
    assert "dev CIDEr is not a number" in (tmp_path / "run" / "log.txt").read_text()


class Poisoned(Likelihood):
    """Gives `value` in place of its loss at some steps."""

    value = math.nan
    steps: tuple[int, ...] = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls = 0

    def forward(self, batch: Any) -> torch.Tensor:
        loss = super().forward(batch)
        self.calls += 1
        return loss * 0 + self.value * batch.targets if self.calls in self.steps else loss


def poison(monkeypatch: pytest.MonkeyPatch, value: float, *steps: int) -> None:
    monkeypatch.setattr(Poisoned, "value", value)
    monkeypatch.setattr(Poisoned, "steps", steps)
    monkeypatch.setattr(loop, "Likelihood", Poisoned)


@pytest.mark.parametrize(
    ("value", "told"), [(math.nan, "loss is nan"), (50.0, r"more than 4.0 above")]
)
def test_a_bad_loss_stops_the_run_and_names_its_images(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, told: str
) -> None:
    poison(monkeypatch, value, 5)
    with pytest.raises(TrainingError, match=rf"{told}.* at step 5; its images are .*\.png, "):
        train(small_recipe(photos), photos, tmp_path / "run")
    assert RunFolder(tmp_path / "run").load()["progress"]["step"] == 4  # type: ignore[index]


def test_a_bad_loss_can_be_skipped_and_counted(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, math.nan, 2, 5)
    metrics = train(small_recipe(photos, bad_loss={"action": "skip"}), photos, tmp_path / "run")
    assert len(losses(metrics)) == 12
    assert "skipped, 2 so far: the loss is nan at step 5" in (tmp_path / "run/log.txt").read_text()
    state = RunFolder(tmp_path / "run").load()
    assert state is not None
    assert state["progress"]["skipped"] == 2
    assert all(weight.isfinite().all() for weight in state["model"]["decoder"].values())


def test_skipping_ends_where_no_step_is_good(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, math.nan, *range(100))
    recipe = small_recipe(photos, bad_loss={"action": "skip"}, epochs=20)
    with pytest.raises(TrainingError, match="at step 21;"):
        train(recipe, photos, tmp_path / "run")


def test_a_broken_image_is_left_out_named_once_and_too_many_stop_the_run(tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 30)
    (folder / "002.png").write_bytes(b"broken")
    source = {"path": str(folder), "format": "kohya", "broken": 0.1}
    recipe = small_recipe(sources=[source])
    train(recipe, folder, tmp_path / "run")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("left out") == 1
    assert "002.png" in log
    for number in range(10, 17):
        (folder / f"{number:03d}.png").write_bytes(b"broken")
    with pytest.raises(Exception, match="more than the accepted 10%"):
        train(recipe, folder, tmp_path / "run2")
