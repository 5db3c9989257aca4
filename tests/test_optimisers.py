"""A learning rate for each part, decayed layer by layer, warmed up and scheduled; frozen parts stay out."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from small_runs import small_recipe
from timm.models import group_parameters

from training.loop.optimisers import freeze, make_optimiser, make_schedule
from training.recipe.recipe import Optimiser, RecipeError
from vlm.model.model import VisionLanguageModel

if TYPE_CHECKING:
    from vlm.captioner import Captioner


def options(**changes: object) -> Optimiser:
    return small_recipe(optimiser=changes).optimiser


@pytest.fixture
def model(tiny: Captioner) -> VisionLanguageModel:
    return copy.deepcopy(tiny.model)


def by_parameter(model: VisionLanguageModel, optimiser: torch.optim.Optimizer) -> dict[str, dict]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in optimiser.param_groups for p in group["params"]}


def test_a_rate_of_zero_freezes_a_part(model: VisionLanguageModel) -> None:
    chosen = options(learning_rate={"vision": 0, "adapter": 1e-3, "decoder": 0})
    assert freeze(model, chosen) == ["adapter"]
    groups = by_parameter(model, make_optimiser(model, chosen))
    assert {name.split(".")[0] for name in groups} == {"adapter"}
    assert all(
        p.requires_grad == name.startswith("adapter") for name, p in model.named_parameters()
    )


def test_each_part_has_its_rate_and_only_matrices_decay(model: VisionLanguageModel) -> None:
    rates = {"vision": 1e-5, "adapter": 1e-3, "decoder": 2e-3}
    chosen = options(learning_rate=rates, weight_decay=0.1)
    freeze(model, chosen)
    optimiser = make_optimiser(model, chosen)
    groups = by_parameter(model, optimiser)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert groups[name]["lr"] == rates[name.split(".")[0]]
        decayed = parameter.ndim > 1 and "embedding" not in name
        assert groups[name]["weight_decay"] == (0.1 if decayed else 0), name


def test_the_encoders_first_stages_stay_and_the_rest_learns(model: VisionLanguageModel) -> None:
    rates = {"vision": 1e-3, "adapter": 0, "decoder": 0}
    chosen = options(learning_rate=rates, frozen_stages=2)
    freeze(model, chosen)
    learnt = {
        name.removeprefix("vision.trunk.")
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    stages = group_parameters(model.vision.trunk, model.vision.trunk.group_matcher(coarse=True))
    assert learnt == {name for stage in sorted(stages)[2:] for name in stages[stage]}
    assert set(by_parameter(model, make_optimiser(model, chosen))) == {
        f"vision.trunk.{n}" for n in learnt
    }


def test_an_encoder_that_learns_has_a_stage_left(model: VisionLanguageModel) -> None:
    with pytest.raises(RecipeError, match="frozen_stages must be less than the encoder's"):
        freeze(model, options(learning_rate={"vision": 1e-3}, frozen_stages=99))


def test_lower_layers_of_the_encoder_learn_more_slowly(model: VisionLanguageModel) -> None:
    chosen = options(learning_rate={"vision": 1e-3}, layer_decay=0.5, warmup_steps=0)
    freeze(model, chosen)
    optimiser = make_optimiser(model, chosen)
    make_schedule(optimiser, chosen, 100).step_update(1)
    rates = {name: group["lr"] for name, group in by_parameter(model, optimiser).items()}
    stem, head = rates["vision.trunk.conv_stem.weight"], rates["vision.trunk.conv_head.weight"]
    [middle] = {rate for name, rate in rates.items() if name.startswith("vision.trunk.blocks.1.0.")}
    assert stem < middle < head
    assert rates["decoder.token_embedding.weight"] == pytest.approx(6e-4, rel=1e-2)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [("cosine", 0.5, 0.001), ("linear", 0.5, 0.01), ("constant", 1.0, 1.0)],
)
def test_rates_rise_to_their_peak_and_follow_the_schedule(
    model: VisionLanguageModel, schedule: str, middle: float, end: float
) -> None:
    chosen = options(
        learning_rate={"adapter": 1.0, "decoder": 0.1}, schedule=schedule, warmup_steps=20
    )
    optimiser = make_optimiser(model, chosen)
    schedule_of = make_schedule(optimiser, chosen, steps=120)

    def rates(step: int) -> tuple[float, float]:
        schedule_of.step_update(step)
        groups = by_parameter(model, optimiser)
        return groups["adapter.project.weight"]["lr"], groups["decoder.final_norm.weight"]["lr"]

    assert rates(1) == pytest.approx((0.05, 0.005))
    assert rates(10) == pytest.approx((0.5, 0.05))
    assert rates(20) == pytest.approx((1.0, 0.1))
    assert rates(70)[0] == pytest.approx(middle, abs=0.02)
    assert rates(120)[0] == pytest.approx(end, abs=0.01)
    assert rates(120)[0] > 0  # the last step learns too
    assert rates(10) == pytest.approx((0.5, 0.05))  # it has no memory, so a run can go on anywhere


def test_a_short_run_is_not_all_warm_up(model: VisionLanguageModel) -> None:
    chosen = options(warmup_steps=500, schedule="constant")
    optimiser = make_optimiser(model, chosen)
    make_schedule(optimiser, chosen, steps=8).step_update(2)
    assert max(group["lr"] for group in optimiser.param_groups) == pytest.approx(6e-4)


def test_optimisers_are_timms(model: VisionLanguageModel) -> None:
    freeze(model, options())
    assert type(make_optimiser(model, options(name="lion"))).__name__ == "Lion"
    betas = make_optimiser(model, options(betas=[0.8, 0.9])).defaults["betas"]
    assert tuple(betas) == (0.8, 0.9)
    with pytest.raises(RecipeError, match=r"betas must be null, since sgd has none"):
        options(name="sgd", betas=[0.8, 0.9])
