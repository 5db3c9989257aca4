"""What a recipe would train, and how much memory and time it would take, from a few real steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..recipe.models import start_model
from ..recipe.recipe import Recipe
from ..recipe.sources import Data, read_data, texts_of
from .inputs import Inputs, NoImage, Pixels
from .lengths import fit_to_decoder
from .objectives import Likelihood
from .optimisers import freeze, make_optimiser
from .steps import EpochSteps, steps_of_epochs

STEPS = 4  # made on real texts; the first is not timed


def print_estimate(recipe: Recipe, data_folder: Path) -> None:
    """Print the resolved recipe, the parameters of each part, and what a run takes on one process of this machine."""
    console = Console()
    print(recipe.to_yaml())
    data = read_data(recipe, data_folder)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        model, tokenizer = start_model(recipe, texts_of(data.all_train), file)
    unfit = fit_to_decoder(data, recipe, tokenizer, model.config.decoder.max_length)
    freeze(model, recipe.optimiser)

    preprocess = model.config.vision.preprocess
    start = time.perf_counter()
    with torch.inference_mode():
        patches, grid = model.vision.eval()(torch.zeros(4, 3, *preprocess.size))
    encode_seconds = (time.perf_counter() - start) / 4
    inputs: Inputs = Pixels(preprocess, recipe.augment)
    if recipe.caches_patches or recipe.blind:
        inputs = NoImage(grid, patches.shape[1:])  # as large and as fast as patches from the cache

    max_length = model.config.decoder.max_length
    steps = EpochSteps(data.train, inputs, tokenizer, max_length, recipe, epoch=0)
    objective = Likelihood(model, recipe.label_smoothing, recipe.gradient_checkpointing)
    optimiser = make_optimiser(model, recipe.optimiser)
    half = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
    autocast = torch.autocast("cpu", half, enabled=half is not None)
    seconds, activations = [], 0
    for index in range(min(STEPS, len(steps))):
        start = time.perf_counter()
        for batch in steps[index].batches:
            saved = _Saved(model)
            with saved, autocast:
                loss = objective(batch) / max(1, batch.targets)
            loss.backward()
            activations = max(activations, saved.size)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - start)
    total_steps = sum(steps_of_epochs(data.train, recipe))
    encoded = images_to_encode(recipe, data)
    timed = seconds[1:] or seconds
    run_seconds = total_steps * sum(timed) / len(timed) + encoded * encode_seconds

    for sentence in unfit:
        console.print(sentence, markup=False, highlight=False)
    console.print(parameter_table(model))
    console.print(memory_table(model, optimiser, activations))
    console.print(
        f"{len(data.all_train):,} images to learn from, {len(data.all_dev):,} for validation; {total_steps:,} "
        f"steps; about {timedelta(seconds=round(run_seconds))} here"
        + (f", with {encoded:,} images to encode first" if encoded else "")
        + (" (sampling and rewards not counted)" if recipe.objective == "scst" else "")
    )


def images_to_encode(recipe: Recipe, data: Data) -> int:
    """How many images the feature cache must hold, mirrored ones counted twice."""
    if not recipe.caches_patches:
        return 0
    mirrored = sum(g.source.mirror and not g.names_a_side for g in data.all_train)
    return len(data.all_train) + len(data.all_dev) + mirrored


def parameter_table(model: nn.Module) -> Table:
    """Parameters of each part, and how many of them learn."""
    table = Table("part", title="Parameters")
    for title in ("all", "trained"):
        table.add_column(title, justify="right")
    parts = {name: list(part.parameters()) for name, part in model.named_children()}
    for name, parameters in {**parts, "total": list(model.parameters())}.items():
        counts = (parameters, [p for p in parameters if p.requires_grad])
        table.add_row(name, *(f"{sum(p.numel() for p in count):,}" for count in counts))
    return table


def memory_table(model: nn.Module, optimiser: torch.optim.Optimizer, activations: int) -> Table:
    """What a step holds, in megabytes."""
    states = [t for s in optimiser.state.values() for t in s.values() if isinstance(t, Tensor)]
    trained = [p for p in model.parameters() if p.requires_grad]
    sizes = {
        "weights, and their average": 2 * _size(model.parameters()),
        "gradients": _size(trained),
        "optimiser": _size(states),
        "activations": activations,
    }
    table = Table("memory", title="One process, besides about 500 MB of libraries")
    table.add_column("MB", justify="right")
    for name, size in {**sizes, "total": sum(sizes.values())}.items():
        table.add_row(name, f"{size / 1e6:,.0f}")
    return table


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class _Saved(saved_tensors_hooks):
    """Counts the bytes that a forward pass keeps for the backward pass, each storage once, weights not."""

    def __init__(self, model: nn.Module) -> None:
        self.seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.size = 0
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.size += storage.nbytes()
        return tensor
