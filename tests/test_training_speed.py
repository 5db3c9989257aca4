"""The training benchmark runs, and counts what a step computes."""

from __future__ import annotations

import json

import pytest
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks import training_speed
from training.loop.features import FeatureCache, build_features
from training.loop.inputs import CachedPatches
from training.loop.objectives import Likelihood
from training.loop.steps import EpochSteps
from training.recipe.models import start_model
from training.recipe.sources import read_data, texts_of


@pytest.mark.slow
def test_it_measures_the_trainer():
    import typer

    app = typer.Typer()
    app.command()(training_speed.main)
    arguments = ["--images", "256", "--epochs", "1", "--width", "32", "--depth", "1", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    speed = json.loads(result.stdout.splitlines()[-1])
    assert speed["images"] == 256
    assert speed["steps"] == 8
    assert 0 < speed["utilisation"] < 1
    assert 0 <= speed["waiting"] < 1
    assert speed["cache_speed_up"] > 1


def test_work_is_what_torch_counts_but_for_padding_and_attention(tmp_path):
    data = str(training_speed.invent(tmp_path / "images", 32))
    recipe = training_speed.make_recipe(data, "all", epochs=1, width=64, depth=2)
    everything = read_data(recipe, tmp_path)
    texts = list(texts_of(everything.all_train))
    model, tokenizer = start_model(recipe, texts, tmp_path / "tokenizer.json")
    refs = [group.image for group in everything.all_train]
    build_features(tmp_path / "cache", model.vision, refs, say=lambda _: None)
    patches = CachedPatches(FeatureCache(tmp_path / "cache"))
    ((work, tokens),) = training_speed.step_work(model, tokenizer, everything, patches, recipe)

    for parameter in model.vision.parameters():
        parameter.requires_grad_(False)
    steps = EpochSteps(everything.train, patches, tokenizer, 64, recipe, 0)
    [batch] = steps[0].batches
    assert tokens < sum(rows.ids.numel() for rows in batch.chunks)
    with FlopCounterMode(display=False) as counter:
        Likelihood(model.train(), 0.1, False)(batch).backward()
    # Torch also counts padding and attention scores; the adapter's input needs no gradient, which torch leaves out.
    assert 0.6 * counter.get_total_flops() < work < 1.1 * counter.get_total_flops()
