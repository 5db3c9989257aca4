"""The training loop: steps in, a trained model out; it can be killed at any moment and goes on exactly."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm.captioner import Captioner
from vlm.loading import find_device
from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer

from ..data.report import Broken
from ..evaluation.metrics.captions import CIDER_NEEDS
from ..evaluation.samples import samples
from ..evaluation.scoring import mean_points
from ..recipe.recipe import Recipe, RecipeError
from ..recipe.sources import Data
from .checkpoints import RunFolder, TrainingError
from .examples import Batch
from .inputs import Inputs
from .map_loss import check_maps
from .monitor import Monitor
from .objectives import Likelihood, SelfCritic
from .optimisers import freeze, make_optimiser, make_schedule
from .steps import EpochSteps, steps_of_epochs
from .told_names import check_names
from .validation import Dev, one_caption_and_questions

SAMPLES = 6  # dev images whose word maps TensorBoard shows
MAX_SKIPPED = 20  # bad steps in a row after which skipping is hopeless


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    epoch: int = 0
    done: int = 0  # steps of this epoch
    best: float = -math.inf  # the validation metric, negated where lower is better
    since_best: int = 0  # validations
    mean_loss: float = math.nan  # running mean, and its lowest so far, to know a bad loss by
    lowest_loss: float = math.inf
    skipped: int = 0
    skipped_running: int = 0


@dataclass
class Run:
    """Everything that changes as a run goes on, which is what a checkpoint holds; frozen parts are not in it."""

    model: VisionLanguageModel
    averaged: ModelEmaV3
    optimiser: Any  # as accelerate wraps it
    accelerator: Accelerator
    trained: list[str]
    start: dict[str, Tensor] = field(default_factory=dict)  # weights to share in what is kept
    progress: Progress = field(default_factory=Progress)

    def state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "progress": asdict(self.progress),
            "model": {name: getattr(self.model, name).state_dict() for name in self.trained},
            "averaged": {
                name: getattr(self.averaged.module, name).state_dict() for name in self.trained
            },
            "optimiser": self.optimiser.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.progress = Progress(**state["progress"])
        for name in self.trained:
            getattr(self.model, name).load_state_dict(state["model"][name])
            getattr(self.averaged.module, name).load_state_dict(state["averaged"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def make_accelerator(recipe: Recipe, device: str = "auto") -> Accelerator:
    """One process, or those that `accelerate launch` or `torchrun` has started.

    With "auto" accelerate chooses the device: a GPU for each process where there are any. Raises DeviceError for one
    that is not to be had, and TrainingError where several processes are to share one GPU.
    """
    # Some encoders have parameters that patches do not depend on, such as a pooling head.
    unused = recipe.optimiser.learning_rate.vision > 0
    # cuDNN plans attention anew for every length of text, which on an H100 took six times as long as all the rest.
    torch.backends.cuda.enable_cudnn_sdp(False)
    accelerators = (torch.cuda, torch.xpu, torch.backends.mps)
    on_cpu = not any(kind.is_available() for kind in accelerators)  # else processes never meet
    if device != "auto":
        place = find_device(device)
        on_cpu = place.type == "cpu"
        if place.type == "cuda":
            if int(os.environ.get("WORLD_SIZE", 1)) > 1:
                raise TrainingError(
                    f"--device {device} is for one process; several take a GPU each"
                )
            torch.cuda.set_device(place)  # which accelerate calls plain "cuda"
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=recipe.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
    )


def train(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    data: Data,
    inputs: Inputs,
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    workers: int = 0,
) -> None:
    """Train to the recipe's last epoch, or until the metric has stopped improving; the best weights are in
    `folder.model`.

    A run whose folder holds a state goes on from there and gives what it would have given without the
    interruption. Raises TrainingError for a bad loss, unless the recipe skips such steps, and for a metric that
    was a number at no validation, since no model was kept then.
    """
    if recipe.keep_classes and model.tagger is None:
        raise RecipeError("keep_classes must be 0 for a model without tags")
    if recipe.tell_names:
        check_names(model)
    if recipe.maps is not None:
        check_maps(model, recipe.maps)
    model.to(accelerator.device)
    trained = freeze(model, recipe.optimiser)
    averaged = ModelEmaV3(model, decay=recipe.optimiser.ema, use_warmup=True)
    steps_of = steps_of_epochs(data.train, recipe)
    optimiser = make_optimiser(model, recipe.optimiser)
    schedule = make_schedule(optimiser, recipe.optimiser, sum(steps_of))
    objective = Likelihood(
        model,
        recipe.label_smoothing,
        recipe.gradient_checkpointing,
        recipe.keep_classes,
        recipe.hide_patches,
        recipe.maps,
        0.0 if recipe.documents is None else recipe.documents.find,
    )
    objective, optimiser = accelerator.prepare(objective, optimiser)
    critic = make_critic(recipe, tokenizer, data)
    rank, world = accelerator.process_index, accelerator.num_processes
    max_length = model.config.decoder.max_length
    dev = Dev(data.all_dev, inputs, tokenizer, max_length, recipe.batch_images, workers)

    # Taken before a state is loaded: it is the same however often a run was interrupted.
    start = {n: p.detach().clone() for n, p in model.named_parameters() if recipe.start_share}
    run = Run(model, averaged, optimiser, accelerator, trained, start)
    if (state := folder.load()) is not None:
        run.load(state)
    progress = run.progress
    with Monitor(folder.path, progress.step, sum(steps_of), accelerator.is_main_process) as monitor:
        while progress.epoch < recipe.epochs and not stopped_early(progress, recipe):
            steps = EpochSteps(
                data.train, inputs, tokenizer, max_length, recipe, progress.epoch, rank, world
            )
            left = range(progress.done, len(steps))
            began = asked = time.perf_counter()
            for part in DataLoader(steps, batch_size=None, sampler=left, num_workers=workers):
                waited = time.perf_counter() - asked
                # What dropout and sampling draw is a function of the step, so no generator's state need be kept.
                seed = (recipe.seed * 1_000_003 + progress.step) * world + rank
                torch.manual_seed(seed % 2**63)
                batches = [batch.to(accelerator.device) for batch in part.batches]
                figures = {}
                if critic is not None:
                    batches, figures["reward"] = critic(model.eval(), batches)
                model.train()
                model.vision.eval()  # batch norms keep their pretrained statistics
                schedule.step_update(progress.step + 1)
                optimiser.zero_grad()
                loss = backward(objective, batches, accelerator)
                norm = clip(model, recipe.optimiser.clip_norm, accelerator)
                problem = what_is_bad(loss, norm, recipe, progress)
                if problem is None:
                    optimiser.step()
                    averaged.update(model, progress.step + 1)
                else:
                    keys = gather_object([key for batch in batches for key in batch.keys])
                    refuse_step(problem, keys, recipe, run, monitor)
                note_broken(part.broken, data, monitor)
                progress.step, progress.done = progress.step + 1, progress.done + 1
                seconds, began = time.perf_counter() - began, time.perf_counter()
                figures |= {
                    "step": progress.step,
                    "epoch": progress.epoch,
                    "loss": loss,
                    "gradient_norm": norm,
                    "learning_rate": max(group["lr"] for group in optimiser.param_groups),
                    "images_per_second": sum(len(b.keys) for b in batches) * world / seconds,
                    "seconds": seconds,
                    "waited_for_data": waited,
                }
                monitor.step(figures)
                if progress.step % recipe.checkpoints.every == 0 and progress.done < len(steps):
                    save(run, folder, recipe)
                asked = time.perf_counter()
            agree_on_broken(data, monitor)
            progress.epoch, progress.done = progress.epoch + 1, 0
            if progress.epoch % recipe.validation.every == 0 or progress.epoch == recipe.epochs:
                validate(run, tokenizer, dev, recipe, folder, monitor)
            save(run, folder, recipe)
        if progress.epoch < recipe.epochs:
            monitor.say(
                f"stopped after epoch {progress.epoch} of {recipe.epochs}: dev {recipe.validation.metric} was no "
                f"better {progress.since_best} times running (validation.patience)"
            )
    if recipe.validation.metric != "last" and progress.best == -math.inf:
        raise TrainingError(
            f"no validation gave a {recipe.validation.metric} that is a number, so no model was kept; see "
            f"{folder.path / 'log.txt'}"
        )


def note_broken(broken: Iterable[tuple[int, Broken]], data: Data, monitor: Monitor) -> None:
    """Name each image that could not be read, once. Raises DataError when a source has too many."""
    for source, image in broken:
        report = data.reports[source]
        if image not in report.broken:
            monitor.say(f"left out: {image.where}: {image.reason}")
            report.skip(image)


def agree_on_broken(data: Data, monitor: Monitor) -> None:
    """Tell every process what the others could not read, so that they judge its share alike."""
    own = [(source, image) for source, r in enumerate(data.reports) for image in r.broken]
    note_broken(gather_object(own), data, monitor)
    for report in data.reports:
        report.check()


def make_critic(recipe: Recipe, tokenizer: Tokenizer, data: Data) -> SelfCritic | None:
    """What turns captions into rewarded samples, where the recipe's objective is self-critical."""
    if recipe.objective != "scst":
        return None
    references = {
        record.image.key: record.texts
        for group in data.all_train
        for record in one_caption_and_questions(group)
        if record.question is None
    }
    return SelfCritic(tokenizer, references, recipe.scst)


def backward(objective: nn.Module, batches: list[Batch], accelerator: Accelerator) -> float:
    """Gradients of a step's loss, and the loss: a mean over the target tokens of all batches of all processes."""
    targets = torch.tensor(sum(batch.targets for batch in batches), device=accelerator.device)
    targets = accelerator.reduce(targets).clamp(min=1)
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, 1):
        last = number == len(batches)
        with nullcontext() if last else accelerator.no_sync(objective):
            loss = objective(batch) / targets
            accelerator.backward(
                loss * accelerator.num_processes
            )  # DDP takes the mean of gradients
            total += loss.detach()
    return float(accelerator.reduce(total))


def clip(model: nn.Module, largest: float, accelerator: Accelerator) -> float:
    """Scale the gradients down to a norm of `largest`, and return the norm they had."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return float(accelerator.clip_grad_norm_(parameters, largest))


def what_is_bad(loss: float, norm: float, recipe: Recipe, progress: Progress) -> str | None:
    """Why a step must not be taken, or None. The loss joins the running mean if all is well."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm) and recipe.precision != "fp16":  # fp16's scaler looks for itself
        return f"the gradients' norm is {norm}"
    rise = recipe.bad_loss.rise
    if recipe.objective == "cross_entropy" and loss > progress.lowest_loss + rise:
        return (
            f"the loss is {loss:.3f}, more than {rise} above the {progress.lowest_loss:.3f} it was"
        )
    first = math.isnan(progress.mean_loss)
    progress.mean_loss = loss if first else 0.99 * progress.mean_loss + 0.01 * loss
    progress.lowest_loss = min(progress.lowest_loss, progress.mean_loss)
    progress.skipped_running = 0
    return None


def refuse_step(problem: str, keys: list[str], recipe: Recipe, run: Run, monitor: Monitor) -> None:
    """Skip a bad step and count it, or stop the run, naming the images either way."""
    progress = run.progress
    named = f"{problem} at step {progress.step + 1}; its images are {', '.join(keys)}"
    progress.skipped += 1
    progress.skipped_running += 1
    if recipe.bad_loss.action == "stop" or progress.skipped_running > MAX_SKIPPED:
        raise TrainingError(
            f"{named}. Look at them; a lower learning rate or a longer warm-up often helps, and "
            "bad_loss.action=skip leaves single steps out"
        )
    if run.accelerator.scaler is not None:
        run.accelerator.scaler.update()  # it must know that this step's gradients are done with
    monitor.say(f"skipped, {progress.skipped} so far: {named}")


def stopped_early(progress: Progress, recipe: Recipe) -> bool:
    return 0 < recipe.validation.patience <= progress.since_best


def validate(
    run: Run, tokenizer: Tokenizer, dev: Dev, recipe: Recipe, folder: RunFolder, monitor: Monitor
) -> None:
    """Score the averaged weights on dev, and keep them if they are the best so far; NaN is never better."""
    model = with_start(run.averaged.module, run.start, recipe.start_share)
    options, progress = recipe.validation, run.progress
    scores: dict[str, float] = {}
    missing: dict[str, str] = {}
    if dev.groups:
        scores["loss"] = dev.loss(model, run.accelerator)
        written = dev.predict(model, run.accelerator, options.images)
        scores |= mean_points(written)
        if "CIDEr" not in scores and any(p.record.question is None for p in written):
            missing["CIDEr"] = CIDER_NEEDS
    if options.metric in missing:
        raise TrainingError(
            f"validation.metric {options.metric} {missing[options.metric]}, and of the dev images that can be read the "
            f"first {options.images} (validation.images) have no such two"
        )
    if options.metric == "last":
        better = True
    else:
        value = scores.get(options.metric, math.nan) * (-1 if options.metric == "loss" else 1)
        better = value > progress.best
        if better:
            progress.best = value
        progress.since_best = 0 if better else progress.since_best + 1
        if math.isnan(value):
            monitor.say(
                f"epoch {progress.epoch}: dev {options.metric} is not a number, so this model is not kept; either "
                "no dev image could be read, or the weights are spoilt"
            )
    if run.accelerator.is_main_process:
        if better:
            folder.publish(model, tokenizer)
        if not recipe.blind:
            shown = samples(Captioner(model, tokenizer), dev.groups[:SAMPLES])
            monitor.samples(progress.step, [answer.overlay() for _, answer in shown])
    monitor.validation(progress.step, progress.epoch, scores, missing, better)


def with_start(
    model: VisionLanguageModel, start: dict[str, Tensor], share: float
) -> VisionLanguageModel:
    """The model, or a copy of which the weights `start` have a `share`."""
    if not share:
        return model
    model = deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.lerp_(start[name], share)
    return model


def save(run: Run, folder: RunFolder, recipe: Recipe) -> None:
    """Write the state, from the main process alone."""
    if run.accelerator.is_main_process:
        folder.save(run.progress.step, run.state(), recipe.checkpoints.keep)
