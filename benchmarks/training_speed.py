"""How well does training use this machine's processor? `python -m benchmarks.training_speed [--data DIR] [--json]`

It trains a decoder of about 10 M parameters with the trainer's own loop, on cached patches of the bundled model's
encoder, and prints:

- the machine's fp32 matrix peak, as `benchmarks.roofline` measures it;
- model-FLOPs utilisation: 6 x parameters x tokens as a share of that peak. A decoder's parameters count for each real
  token, its output head for each token to learn, and what makes keys and values of an image once an image; padding,
  attention scores, norms, the optimiser and the averaged weights count as nothing;
- the share of time that steps wait for their data (bar: 5 %), and memory over an epoch (bar: flat);
- how much faster a step is with cached patches than with images decoded and encoded at every step.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer
from accelerate import Accelerator
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.roofline import cpu_name, measure_machine
from training.loop.checkpoints import RunFolder
from training.loop.features import FeatureCache, build_features
from training.loop.inputs import CachedPatches, Inputs, NoImage, Pixels
from training.loop.loop import train
from training.loop.monitor import read_metrics
from training.loop.run import processes
from training.loop.steps import EpochSteps
from training.recipe.models import start_model
from training.recipe.recipe import Recipe, RecipeError
from training.recipe.sources import Data, read_data, texts_of
from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer
from vlm.typed import build

WARM_UP = 3  # steps that are not counted
CAPTIONS = 5  # an image, as in Flickr8k and COCO


@dataclass(frozen=True)
class Speed:
    """What is measured: rates in 10^9 operations or in images a second, memory in 10^6 bytes, shares from 0 to 1."""

    machine: str
    threads: int
    parameters: int
    images: int
    steps: int
    tokens: int
    peak_gflops: float
    model_gflops: float
    utilisation: float
    step_seconds: float
    images_per_second: float
    waiting: float
    memory_early_mb: float
    memory_late_mb: float
    encoding_images_per_second: float
    uncached_images_per_second: float
    cache_speed_up: float


def main(
    data: Annotated[
        str | None, typer.Option(help="captioned images of any known format  [default: invented]")
    ] = None,
    images: Annotated[int, typer.Option(min=256, help="images of an epoch")] = 800,
    epochs: Annotated[int, typer.Option(min=1)] = 2,
    width: Annotated[int, typer.Option(help="of the decoder")] = 384,
    depth: Annotated[int, typer.Option(help="of the decoder")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Measure the trainer on this machine, which should have nothing else to do."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = "train"
        if data is None:
            data, split = str(invent(folder / "images", images)), "all"
        recipe = make_recipe(data, split, epochs, width, depth)
        speed = measure(recipe, folder, images)
    if as_json:
        print(json.dumps(asdict(speed)))
    else:
        show(speed)


def make_recipe(data: str, split: str, epochs: int, width: int, depth: int) -> Recipe:
    """The bundled model's recipe but for the decoder's size, and without validation."""
    values = {
        "vision": {"name": "tf_efficientnet_lite2", "size": [256, 256], "weights": "random"},
        "decoder": {"width": width, "depth": depth, "heads": 8, "vocab_size": 4096},
        "sources": [{"path": data, "split": split, "dev": None}],
        "optimiser": {"betas": [0.9, 0.98], "ema": 0.998},
        "dropout": 0.2,
        "validation": {"metric": "last", "images": 0},
        "epochs": epochs,
    }
    return build(Recipe, values, RecipeError, "the recipe")


def invent(folder: Path, count: int) -> Path:
    """Photos of nothing, of the size of Flickr8k's, with captions of as many words (mean 11, deviation 4)."""
    folder.mkdir()
    generator, noise = random.Random(0), np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er")]
    words = ["".join(generator.choices(syllables, k=generator.randint(1, 3))) for _ in range(4000)]
    frequencies = [1 / rank for rank in range(1, len(words) + 1)]  # Zipf's law
    for number in range(count):
        small = noise.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        photo = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
        photo.save(folder / f"{number:05d}.jpg", quality=90)
        lengths = [max(3, round(generator.gauss(11, 4))) for _ in range(CAPTIONS)]
        captions = [" ".join(generator.choices(words, frequencies, k=k)) for k in lengths]
        (folder / f"{number:05d}.txt").write_text("\n".join(captions))
    return folder


def measure(recipe: Recipe, folder: Path, images: int) -> Speed:
    """Train on cached patches, then for a few steps on images that are decoded and encoded anew."""
    accelerator = Accelerator(cpu=True)
    everything = read_data(recipe, folder)
    data = Data([groups[:images] for groups in everything.train], [[]], everything.reports)
    texts = list(texts_of(data.all_train))
    model, tokenizer = start_model(recipe, texts, folder / "tokenizer.json")
    peak = measure_machine().flops / 1e9

    refs = [group.image for group in data.all_train]
    began = time.perf_counter()
    cache = folder / "cache"
    build_features(cache, model.vision, refs, say=lambda _: None)
    encoding = len(refs) / (time.perf_counter() - began)
    patches = CachedPatches(FeatureCache(cache))
    with memory_log() as memory:
        cached = run(model, tokenizer, data, patches, recipe, folder / "cached", accelerator, 0)
    work = step_work(model, tokenizer, data, patches, recipe)

    few = Data([data.all_train[: (WARM_UP + 5) * recipe.batch_images]], [[]], data.reports)
    once = replace(recipe, epochs=1)
    pixels = Pixels(model.config.vision.preprocess, recipe.augment)
    place = folder / "uncached"
    uncached = run(model, tokenizer, few, pixels, once, place, accelerator, processes())

    counted = cached[WARM_UP:]
    seconds = sum(step["seconds"] for step in counted)
    gflops = sum(flops for flops, _ in work[WARM_UP:]) / seconds / 1e9
    fast, slow = (
        statistics.median(step["images_per_second"] for step in steps[WARM_UP:])
        for steps in (cached, uncached)
    )
    last_epoch = memory[-(len(memory) // recipe.epochs) :]
    third = max(1, len(last_epoch) // 3)
    return Speed(
        machine=f"{cpu_name()}, torch {torch.__version__}",
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in model.decoder.parameters()),
        images=len(refs),
        steps=len(cached),
        tokens=sum(tokens for _, tokens in work),
        peak_gflops=peak,
        model_gflops=gflops,
        utilisation=gflops / peak,
        step_seconds=seconds / len(counted),
        images_per_second=fast,
        waiting=sum(step["waited_for_data"] for step in counted) / seconds,
        memory_early_mb=statistics.median(last_epoch[:third]),
        memory_late_mb=statistics.median(last_epoch[-third:]),
        encoding_images_per_second=encoding,
        uncached_images_per_second=slow,
        cache_speed_up=fast / slow,
    )


def run(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    data: Data,
    inputs: Inputs,
    recipe: Recipe,
    place: Path,
    accelerator: Accelerator,
    workers: int,
) -> list[dict[str, Any]]:
    """The figures of each step of a run of the trainer's loop."""
    folder = RunFolder(place)
    folder.claim(recipe)
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
        train(model, tokenizer, data, inputs, recipe, folder, accelerator, workers)
    return [step for step in read_metrics(place / "metrics.jsonl") if "dev" not in step]


def step_work(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    data: Data,
    patches: CachedPatches,
    recipe: Recipe,
) -> list[tuple[float, int]]:
    """Each step's model FLOPs and real tokens, by the rule of this file's head."""
    decoder = model.decoder
    shared = {  # makes keys and values of an image
        name
        for index, kind in enumerate(decoder.config.sublayers)
        for name in (f"sublayers.{index}.body.key_value.{part}" for part in ("weight", "bias"))
        if kind == "c"
    }
    sizes = {name: p.numel() for name, p in decoder.named_parameters()}
    per_slot = sum(p.numel() for p in model.adapter.parameters()) + sum(map(sizes.get, shared))
    per_token = sum(
        size for name, size in sizes.items() if name.startswith("sublayers") and name not in shared
    )
    per_target = decoder.token_embedding.weight.numel()  # the output head is tied to it
    slots, width = patches.features.shape
    nothing = NoImage(patches.features.grid, (slots, width))
    work = []
    for epoch in range(recipe.epochs):
        max_length = decoder.config.max_length
        steps = EpochSteps(data.train, nothing, tokenizer, max_length, recipe, epoch)
        for step in range(len(steps)):
            [batch] = steps[step].batches
            tokens = sum(int((rows.ids != tokenizer.pad).sum()) for rows in batch.chunks)
            parameters = per_token * tokens + per_target * batch.targets
            parameters += per_slot * slots * len(batch.keys)
            work.append((6.0 * parameters, tokens))
    return work


@contextmanager
def memory_log(every: float = 0.2) -> Iterator[list[float]]:
    """The process' resident memory in 10^6 bytes, noted every so many seconds."""
    sizes: list[float] = []
    process, done = psutil.Process(), threading.Event()

    def note() -> None:
        while not done.wait(every):
            sizes.append(process.memory_info().rss / 1e6)

    thread = threading.Thread(target=note)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


def show(speed: Speed) -> None:
    """Print the figures with the bars they are held to."""
    growth = speed.memory_late_mb / speed.memory_early_mb - 1
    rows = [
        ("decoder parameters", f"{speed.parameters:,}", ""),
        ("images, steps, tokens", f"{speed.images:,}, {speed.steps:,}, {speed.tokens:,}", ""),
        ("fp32 matrix peak", f"{speed.peak_gflops:.1f} GFLOP/s", ""),
        ("model FLOPs", f"{speed.model_gflops:.1f} GFLOP/s", ""),
        ("utilisation", f"{speed.utilisation:.1%}", "at least 40 %"),
        ("a step", f"{speed.step_seconds:.2f} s", ""),
        ("speed on cached patches", f"{speed.images_per_second:.1f} images/s", ""),
        ("waiting for data", f"{speed.waiting:.2%}", "under 5 %"),
        (
            "memory, early and late in the last epoch",
            f"{speed.memory_early_mb:,.0f} MB, {speed.memory_late_mb:,.0f} MB ({growth:+.1%})",
            "flat",
        ),
        ("encoding once", f"{speed.encoding_images_per_second:.1f} images/s", ""),
        ("speed without the cache", f"{speed.uncached_images_per_second:.1f} images/s", ""),
        ("the cache's speed-up", f"{speed.cache_speed_up:.2f}", ""),
    ]
    table = Table("", "measured", "bar", title=f"{speed.machine}, {speed.threads} threads")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
