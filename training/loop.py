"""The training loop: batches in, a trained model out, resumable at any step."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from training.examples import Batch, Group, epoch_batches, images_an_epoch
from training.features import FeatureCache
from training.recipe import Recipe
from vlm.memory import Memory
from vlm.model import IGNORE_INDEX, VisionLanguageModel
from vlm.tokenizer import Tokenizer

CHECKPOINT_EVERY = 200  # steps


@dataclass
class Run:
    """Everything that a run changes as it goes; what a checkpoint holds."""

    model: VisionLanguageModel
    averaged: ModelEmaV3
    optimiser: torch.optim.Optimizer
    step: int = 0
    best_dev_loss: float = math.inf

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best_dev_loss": self.best_dev_loss,
            "random": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.module.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.best_dev_loss = state["best_dev_loss"]
        torch.set_rng_state(state["random"])


def save_atomically(value: Any, path: Path) -> None:
    """Write a torch file so that a crash leaves the old one or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over what is trained; vectors and embeddings are not decayed."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in trained if p.ndim >= 2 and "embedding" not in n]
    others = [p for n, p in trained if not (p.ndim >= 2 and "embedding" not in n)]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.optimiser.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.optimiser.learning_rate,
        betas=(0.9, 0.98),
    )


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = min(recipe.optimiser.warmup_steps, max(1, total_steps // 4))
    peak = recipe.optimiser.learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def batch_memory(
    model: VisionLanguageModel, batch: Batch, features: FeatureCache, blind: bool
) -> Memory:
    """The memory of a batch's images from the feature cache; zeros in place of patches when `blind`."""
    patches = features.get(batch.keys, batch.mirrored).to(model.device).float()
    return model.remember(torch.zeros_like(patches) if blind else patches, features.grid)


def batch_loss(
    model: VisionLanguageModel, batch: Batch, memory: Memory, label_smoothing: float
) -> torch.Tensor:
    """Mean cross-entropy a target token; the images' keys and values are projected once for all rows."""
    projected = model.decoder.project(memory)
    tokens = sum(int((rows.targets != IGNORE_INDEX).sum()) for rows in batch.chunks)
    total = torch.zeros((), device=model.device)
    for rows in batch.chunks:
        total = total + model.loss(
            projected.select(rows.image.to(model.device)),
            rows.ids.to(model.device),
            rows.targets.to(model.device),
            label_smoothing,
        )
    return total / tokens


@torch.inference_mode()
def dev_loss(
    model: VisionLanguageModel, batches: list[Batch], features: FeatureCache, blind: bool
) -> float:
    """Mean cross-entropy in nats over some batches, without smoothing or dropout."""
    model.eval()
    losses = [
        batch_loss(model, batch, batch_memory(model, batch, features, blind), 0.0).item()
        for batch in batches
    ]
    model.train()
    return sum(losses) / len(losses)


def train(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    groups: list[Group],
    dev_groups: list[Group],
    features: FeatureCache,
    recipe: Recipe,
    folder: Path,
) -> VisionLanguageModel:
    """Train until the recipe's last epoch and return the averaged model with the lowest dev loss.

    `folder` gets `checkpoint.pt` (resume), `best.pt` (the weights to keep) and TensorBoard events; when it already
    holds a checkpoint, the run goes on from there.
    """
    torch.manual_seed(recipe.seed)
    model.vision.requires_grad_(False)
    model.train()
    run = Run(model, ModelEmaV3(model, decay=recipe.optimiser.ema), make_optimiser(model, recipe))
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        run.load(torch.load(checkpoint, weights_only=True))

    max_length = recipe.decoder.max_length
    dev = list(epoch_batches(dev_groups, tokenizer, recipe.batch_images, max_length, 0, 0))
    seen = Counter(group.source for group in groups)
    images = sum(images_an_epoch(source, count) for source, count in seen.items())
    steps_per_epoch = -(-images // recipe.batch_images)
    total_steps = steps_per_epoch * recipe.epochs
    writer = SummaryWriter(str(folder))
    trained = [p for p in model.parameters() if p.requires_grad]
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} images/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(
            "", total=total_steps, completed=run.step, epoch=0, loss=math.nan, speed=0.0
        )
        while run.step < total_steps:
            epoch, done = divmod(run.step, steps_per_epoch)
            batches = epoch_batches(
                groups, tokenizer, recipe.batch_images, max_length, recipe.seed + 1, epoch
            )
            for index, batch in enumerate(batches):
                if index < done:
                    continue
                start = time.perf_counter()
                for group in run.optimiser.param_groups:
                    group["lr"] = learning_rate(recipe, run.step, total_steps)
                memory = batch_memory(model, batch, features, recipe.blind)
                loss = batch_loss(model, batch, memory, recipe.optimiser.label_smoothing)
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss.item()} at step {run.step}; images: {', '.join(batch.keys)}"
                    )
                run.optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(trained, recipe.optimiser.clip_norm)
                run.optimiser.step()
                run.averaged.update(model)
                run.step += 1
                speed = len(batch.keys) / (time.perf_counter() - start)
                progress.update(
                    task, completed=run.step, epoch=epoch, loss=loss.item(), speed=speed
                )
                if run.step % 20 == 0:
                    writer.add_scalar("train/loss", loss.item(), run.step)
                    writer.add_scalar("train/images_per_second", speed, run.step)
                if run.step % CHECKPOINT_EVERY == 0:
                    save_atomically(run.state(), checkpoint)
            score = dev_loss(run.averaged.module, dev, features, recipe.blind)
            writer.add_scalar("dev/loss", score, run.step)
            progress.console.print(f"epoch {epoch}: dev loss {score:.4f}")
            if score < run.best_dev_loss:
                run.best_dev_loss = score
                save_atomically(run.averaged.module.state_dict(), folder / "best.pt")
            save_atomically(run.state(), checkpoint)
    writer.close()
    model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    return model.eval()
