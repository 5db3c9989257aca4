"""timm's optimisers and schedules, with a learning rate for each part of the model."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler

from vlm.model.model import VisionLanguageModel

from ..recipe.recipe import Optimiser, RecipeError


def freeze(model: VisionLanguageModel, options: Optimiser) -> list[str]:
    """Leave only the parts with a learning rate trainable, and return their names."""
    trained = [name for name, rate in rates(model, options).items() if rate > 0]
    model.requires_grad_(False)
    for name in trained:
        getattr(model, name).requires_grad_(True)
    if "vision" in trained and options.frozen_stages:
        freeze_stages(model.vision.trunk, options.frozen_stages)
    return trained


def freeze_stages(trunk: Any, count: int) -> None:
    """Freeze the first stages of a timm model. Raises RecipeError where it has no more than these."""
    stages = group_parameters(trunk, trunk.group_matcher(coarse=True))
    if count >= len(stages):
        raise RecipeError(
            f"optimiser.frozen_stages must be less than the encoder's {len(stages)}, not {count}; "
            "learning_rate.vision=0 freezes all"
        )
    parameters = dict(trunk.named_parameters())
    for stage in sorted(stages)[:count]:
        for name in stages[stage]:
            parameters[name].requires_grad_(False)


def rates(model: VisionLanguageModel, options: Optimiser) -> dict[str, float]:
    """The learning rate of each part; a tagger learns with the adapter, beside which it fills the memory."""
    of_part = dict(vars(options.learning_rate))
    return of_part if model.tagger is None else {**of_part, "tagger": of_part["adapter"]}


def make_optimiser(model: VisionLanguageModel, options: Optimiser) -> torch.optim.Optimizer:
    """The recipe's optimiser over what is trained; vectors and embeddings are not decayed."""
    groups: list[dict[str, Any]] = []
    for name, rate in rates(model, options).items():
        part = getattr(model, name)
        if rate == 0:
            continue
        if name == "vision":
            trunk = part.trunk
            no_decay = trunk.no_weight_decay() if hasattr(trunk, "no_weight_decay") else ()
            own = param_groups_layer_decay(
                trunk, options.weight_decay, no_decay, layer_decay=options.layer_decay
            )
        else:
            own = param_groups_weight_decay(part, options.weight_decay, True, ["*embedding*"])
        groups += [{**group, "lr": rate} for group in own]
    extra: dict[str, Any] = {} if options.betas is None else {"betas": options.betas}
    return create_optimizer_v2(groups, opt=options.name, lr=groups[0]["lr"], **extra)


def make_schedule(optimiser: torch.optim.Optimizer, options: Optimiser, steps: int) -> Scheduler:
    """A linear warm-up (at most a quarter of the run), then the recipe's schedule down to zero.

    It has no state: `step_update(n)` sets the learning rates of step `n`, counted from 1.
    """
    warmup = min(options.warmup_steps, steps // 4)
    rest = steps - warmup + 1
    common: dict[str, Any] = {"warmup_t": warmup, "warmup_prefix": True, "t_in_epochs": False}
    if options.schedule == "cosine":
        return CosineLRScheduler(optimiser, rest, **common)
    if options.schedule == "linear":
        return PolyLRScheduler(optimiser, rest, power=1.0, **common)
    return StepLRScheduler(optimiser, decay_t=rest, decay_rate=1.0, **common)
