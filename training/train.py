"""Train a model from a recipe: `python -m training.train RECIPE.yaml --data DIR --out DIR key=value ...`"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator

import vlm
from vlm.model.model import VisionLanguageModel
from vlm.weights.store import CheckpointError

from .data.records import DataError
from .loop.checkpoints import RunFolder, TrainingError
from .loop.estimate import print_estimate
from .loop.features import FeatureCache, build_features, fingerprint
from .loop.inputs import CachedPatches, Inputs, NoImage, Pixels
from .loop.loop import make_accelerator, train
from .loop.monitor import log
from .loop.run_report import write_report
from .recipe.models import start_model
from .recipe.recipe import Recipe, RecipeError, load_recipe
from .recipe.sources import Data, drop_unreadable, read_data, texts_of

# What the user can mend; anything else is ours and keeps its traceback.
USER_ERRORS = (RecipeError, DataError, TrainingError, CheckpointError)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    recipe_path: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="or the name of one in training/recipes")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="e.g. epochs=3")
    ] = None,
    data: Annotated[Path, typer.Option(help="what {data} in the recipe's paths stands for")] = Path(
        "data"
    ),
    out: Annotated[
        Path | None,
        typer.Option(help="folder of this run, resumed if it exists  [default: runs/RECIPE]"),
    ] = None,
    cache: Annotated[Path, typer.Option(help="folder of frozen encoders' patches")] = Path("cache"),
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="processes that decode images  [default: by the machine]"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the recipe, sizes and estimates, and stop")
    ] = False,
) -> None:
    """Train or fine-tune a captioning and question answering model.

    The same command goes on with a run that was interrupted. With several processes:
    `torchrun --nproc-per-node 4 -m training.train ...` or `accelerate launch -m training.train ...`.
    """
    folder = out or Path("runs") / recipe_path.stem
    try:
        recipe = load_recipe(recipe_path, overrides or [])
        if dry_run:
            print_estimate(recipe, data)
        else:
            run(recipe, data, folder, cache, workers)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except OSError as error:  # its traceback is in the log, where that could be written
        print(f"error: {error.filename or folder}: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None


def run(recipe: Recipe, data_folder: Path, out: Path, cache: Path, workers: int | None) -> None:
    """Train the recipe in the folder `out`, and write its report, also when training fails."""
    accelerator = make_accelerator(recipe)
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
        if main_process:
            folder.hold("encoder", fingerprint(model.vision))
            log(out, describe(model, data, accelerator))
        inputs = make_inputs(recipe, model, data, cache, accelerator, workers)
        if main_process:
            name_broken(recipe, data, out)
        if not data.all_train:
            raise DataError("none of the images to learn from can be read")
        if workers is None:
            workers = 0 if inputs.grid else processes()
        train(model, tokenizer, data, inputs, recipe, folder, accelerator, workers)
    except Exception as error:
        if main_process:
            known = isinstance(error, USER_ERRORS)
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
    folder = cache / (fingerprint(model.vision) + "-bf16" * bf16)
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


def name_broken(recipe: Recipe, data: Data, out: Path) -> None:
    """Say, and log, what each source has that is left out."""
    for source, report in zip(recipe.sources, data.reports, strict=True):
        if not report.complete:
            text = f"{source.path}: {report.summary()}"
            print(text, file=sys.stderr)
            log(out, text)


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


if __name__ == "__main__":
    app()
