"""The programs of training as commands of `vlm`, each imported only when asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import typer

import vlm
from vlm.cli.failures import clear_errors, fail

# The program reads its own options, `--help` among them.
PASSED_ON = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


def evaluate(context: typer.Context) -> None:
    """Score captions or answers on a dataset, or compare two models."""
    _run("evaluate", context)


def calibrate(context: typer.Context) -> None:
    """Fit how far a checkpoint's texts are to be trusted, and store it there."""
    _run("calibrate", context)


def try_settings(context: typer.Context) -> None:
    """Try one setting against another on the same photos, with intervals and cost."""
    _run("compare_settings", context)


def table(context: typer.Context) -> None:
    """Measure all that a model card says, and fill its table."""
    _run("table", context)


def faithfulness(context: typer.Context) -> None:
    """Measure whether a model's maps are true."""
    _run("faithfulness", context)


def documents(context: typer.Context) -> None:
    """Measure how well a model uses documents beside a photo."""
    _run("documents", context)


def train(context: typer.Context) -> None:
    """Train or fine-tune a model from a recipe."""
    _run("train", context)


def prepare(context: typer.Context) -> None:
    """Look at a dataset of any known format, list its images, or write it as shards."""
    _run("prepare", context)


def lesson(context: typer.Context) -> None:
    """Learn and draw what cross-attention is, on translations and headlines, in minutes."""
    _run("lesson.commands", context)


def _run(program: str, context: typer.Context) -> None:
    with clear_errors("train"):
        module = import_module(f"{_home()}.{program}")
    typer.main.get_command(module.app).main(context.args, prog_name=context.command_path)


def _home() -> str:
    """The package of training: inside an installed vlm, or beside vlm in a checkout; never a stranger's `training`."""
    if find_spec("vlm.training") is not None:
        return "vlm.training"
    root = Path(vlm.__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        fail("this vlm was installed without its training; install it from a checkout or its wheel")
    if sys.path[0] != str(root):
        sys.path.insert(0, str(root))
    return "training"
