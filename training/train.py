"""Train a model from a recipe: `vlm train RECIPE --data DIR --out DIR key=value ...`

In a checkout `python -m training.train` is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.failures import clear_errors, fail, run_program

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

# The package is `training` in a checkout and `vlm.training` in an installation.
HELP = f"""Train or fine-tune a captioning and question answering model.

The same command goes on with a run that was interrupted. With several processes:
`torchrun --nproc-per-node 4 -m {__package__}.train ...` or `accelerate launch -m {__package__}.train ...`.
"""


@app.command(help=HELP)
@clear_errors("train")
def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="a YAML file, or one that ships, such as finetune"),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="e.g. epochs=3")
    ] = None,
    data: Annotated[Path, typer.Option(help="what {data} in the recipe's paths stands for")] = Path(
        "data"
    ),
    out: Annotated[
        Path | None,
        typer.Option(help="folder of this run, resumed if it exists", show_default="runs/RECIPE"),
    ] = None,
    cache: Annotated[Path, typer.Option(help="folder of frozen encoders' patches")] = Path("cache"),
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="processes that decode images", show_default="by the machine"),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="cpu, cuda, cuda:1 or mps; auto takes a GPU for each process where there are any",
        ),
    ] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the recipe, sizes and estimates, and stop")
    ] = False,
    only_report: Annotated[
        bool,
        typer.Option("--report", help="write the report of what the run has left, and stop"),
    ] = False,
) -> None:
    """The command; see HELP."""
    # The packages of training load here, where one that is missing becomes a sentence.
    from .loop.estimate import print_estimate
    from .loop.run import report, run
    from .recipe.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    folder = out or Path("runs") / Path(recipe).stem
    if dry_run:
        print_estimate(loaded, data)
        return
    if only_report:
        report(loaded, data, folder)
        return
    try:
        run(loaded, data, folder, cache, workers, device)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from the last checkpoint", 130)


if __name__ == "__main__":
    run_program(app)
