"""A run from a recipe: its data, the model it starts from, images for the batches, training, and a report."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import Accelerator

import vlm
from vlm.errors import UserError
from vlm.model.model import VisionLanguageModel
from vlm.runtimes.probes import processor

from ..data.records import DataError
from ..recipe.models import start_model
from ..recipe.recipe import Recipe
from ..recipe.sources import Data, Group, drop_unreadable, read_data, texts_of
from .checkpoints import RunFolder, TrainingError
from .features import FeatureCache, build_features, fingerprint
from .inputs import CachedPatches, Inputs, NoImage, Pixels
from .lengths import fit_to_decoder
from .loop import make_accelerator, train
from .monitor import log
from .run_report import write_report


def run(
    recipe: Recipe,
    data_folder: Path,
    out: Path,
    cache: Path,
    workers: int | None = None,
    device: str = "auto",
) -> None:
    """Train the recipe in the folder `out`, and write its report, also when training fails."""
    accelerator = make_accelerator(recipe, device)
    main_process = accelerator.is_main_process
    folder = RunFolder(out)
    data = read_data(recipe, data_folder)
    if main_process:
        folder.claim(recipe)
        folder.hold("data", data.fingerprint())
    accelerator.wait_for_everyone()
    try:
        with accelerator.main_process_first():  # which learns the tokeniser
            texts = texts_of(data.all_train)
            model, tokenizer = start_model(recipe, texts, folder.model / "tokenizer.json")
        unfit = fit_to_decoder(data, recipe, tokenizer, model.config.decoder.max_length)
        if main_process:
            folder.hold("encoder", fingerprint(model.vision))
            log(out, describe(model, data, accelerator))
            say([*unfit, *slow_precision(recipe, accelerator.device)], out)
        inputs = make_inputs(recipe, model, data, cache, accelerator, workers)
        if main_process:
            say(broken(recipe, data), out)
        if not data.all_train:
            raise DataError("none of the images to learn from can be read")
        if workers is None:
            workers = 0 if inputs.grid else processes()
        train(model, tokenizer, data, inputs, recipe, folder, accelerator, workers)
    except Exception as error:
        if main_process:
            known = isinstance(error, UserError)
            with suppress(OSError):  # a full disk has no room for these either
                log(out, f"failed: {error if known else traceback.format_exc()}")
                write_report(out)
        raise
    accelerator.end_training()
    if main_process:
        # A blind model has seen no image, so what it says of them is no example.
        write_report(out, () if recipe.blind else data.all_dev)
        print(f"the model is in {folder.model}, the report in {out / 'report.html'}")


def make_inputs(
    recipe: Recipe,
    model: VisionLanguageModel,
    data: Data,
    cache: Path,
    accelerator: Accelerator,
    workers: int | None,
) -> Inputs:
    """How batches get their images. Patches of a frozen encoder are computed here, where they are not in the cache."""
    preprocess = model.config.vision.preprocess
    if recipe.blind:
        with torch.inference_mode():
            patches, grid = model.vision.eval()(torch.zeros(1, 3, *preprocess.size))
        return NoImage(grid, patches.shape[1:])
    if not recipe.caches_patches:
        return Pixels(preprocess, recipe.augment)
    bf16 = recipe.precision == "bf16"
    folder = cache / f"{fingerprint(model.vision)}{'-bf16' if bf16 else ''}"
    train = data.all_train
    on_cpu = accelerator.device.type == "cpu"  # where the encoder needs the cores itself
    build_features(
        folder,
        model.vision,
        [group.image for group in train + data.all_dev],
        [group.image for group in train if group.source.mirror and not group.names_a_side],
        device=accelerator.device,
        batch_size=4 if on_cpu else 64,
        workers=(1 if on_cpu else processes()) if workers is None else workers,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        bf16=bf16,
    )
    accelerator.wait_for_everyone()
    features = FeatureCache(folder)
    drop_unreadable(data, features.unreadable)
    return CachedPatches(features)


def slow_precision(recipe: Recipe, device: torch.device) -> list[str]:
    """A sentence where the recipe's precision is none that the processor has instructions for."""
    name, instructions = processor()
    if recipe.precision != "bf16" or device.type != "cpu" or not name or instructions:
        return []
    return [
        f"{name} has no instructions for bf16, which makes each step several times slower; precision=no is faster here"
    ]


def broken(recipe: Recipe, data: Data) -> list[str]:
    """What each source has that is left out."""
    reports = zip(recipe.sources, data.reports, strict=True)
    return [
        f"{source.path}: {report.summary()}" for source, report in reports if not report.complete
    ]


def say(sentences: Sequence[str], out: Path) -> None:
    """Print sentences, and put them into the run's log."""
    for sentence in sentences:
        print(sentence, file=sys.stderr)
        log(out, sentence)


def report(recipe: Recipe, data_folder: Path, out: Path) -> None:
    """Write the report of what a run has left so far, e.g. one that was killed and shall not go on.

    Raises TrainingError when there is no run. Without its data it has no examples, which is said.
    """
    if not out.is_dir():
        raise TrainingError(f"there is no run in {out}; name its folder with --out")
    dev: list[Group] = []
    try:
        dev = [] if recipe.blind else read_data(recipe, data_folder).all_dev
    except DataError as error:
        print(f"the report has no examples: {error}", file=sys.stderr)
    write_report(out, dev)
    print(out / "report.html")


def processes() -> int:
    """How many processes decode images, where nobody says."""
    return min(8, os.cpu_count() or 1)


def describe(model: VisionLanguageModel, data: Data, accelerator: Accelerator) -> str:
    """A line for the log: what learns from what, and on what."""
    size = sum(p.numel() for p in model.parameters())
    return (
        f"vlm {vlm.__version__}, torch {torch.__version__}, {accelerator.num_processes} process(es) on "
        f"{accelerator.device}; {len(data.all_train):,} images to learn from, {len(data.all_dev):,} for validation; "
        f"a model of {size:,} parameters"
    )
