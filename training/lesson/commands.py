"""What cross-attention is, learnt and drawn in minutes: `vlm lesson COMMAND ...`

In a checkout `python -m training.lesson.commands` is the same; docs/cross-attention.md is the lesson.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm.cli.failures import clear_errors, fail, run_program

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What cross-attention is, learnt and drawn in minutes.",
)
SENTENCE = "the girl 's small black dog does not see him ."
console = Console(highlight=False)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `vlm lesson train` wrote.")]


@app.command()
@clear_errors("train")
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="translation, headlines or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="e.g. steps=500")
    ] = None,
    data: Annotated[
        Path, typer.Option(help="The folder that holds flickr8k, for headlines.")
    ] = Path("data"),
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to.", show_default="runs/RECIPE")
    ] = None,
) -> None:
    """Train a small model of words on one core, and print how right it is and how true its attention."""
    import torch

    from .learning import choose, draw, learn, load_lesson, save_lesson, score

    torch.set_num_threads(1)
    loaded = load_lesson(recipe, overrides or [])
    folder = out or Path("runs") / Path(recipe).stem
    began, worked = time.monotonic(), time.process_time()
    splits = draw(loaded, data)
    with console.status("learning") as status:
        model = learn(
            loaded,
            splits.train,
            lambda step, loss: status.update(f"step {step} of {loaded.steps}, loss {loss:.3f}"),
        )
    choice = choose(model, splits.dev)
    save_lesson(folder, model, loaded, choice)
    scores = score(model, splits.test, choice)
    parameters = sum(weight.numel() for weight in model.parameters())
    lines = {
        "pairs learnt from": f"{len(splits.train):,}",
        "pairs held out": f"{len(splits.test):,}",
        "words known": f"{len(model.vocabulary.words):,}",
        "parameters": f"{parameters:,}",
        "exact": f"{scores.exact:.1%}",
        "alignment error rate": f"{scores.aer:.1%}",
        "of sure links alone": f"{scores.strict_aer:.1%}",
        "of a diagonal": f"{scores.diagonal_aer:.1%}",
        "links are of": f"layer {choice.layer}, shares from {choice.least}",
        "seconds": f"{time.monotonic() - began:.0f}, {time.process_time() - worked:.0f} of a core",
    }
    for name, value in lines.items():
        console.print(f"{name:<24}{value}")
    console.print(f"the model is in {folder}")


@app.command()
@clear_errors("train")
def show(
    folder: Folder,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Words with spaces between.")],
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="By default what the model writes.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The grid of words (.png), or its arrays (.npz)."),
    ] = None,
) -> None:
    """Write a source's target, and draw which source words each of its words looked at."""
    from vlm.attend.alignment_picture import check_file, save_alignment
    from vlm.attend.source import gather_alignment

    from .learning import open_lesson

    if out is not None:
        check_file(out)
    model, choice = open_lesson(folder)
    pair = model.read(source.lower().split(), None if target is None else target.lower().split())
    if unknown := [word for word in pair.source if word not in model.vocabulary.ids]:
        fail(
            f"the model knows no {', '.join(map(repr, unknown))}; {folder}/lesson.json has its words"
        )
    if out is not None:
        save_alignment(out, gather_alignment(pair, choice.layer))
    print(" ".join(pair.words))


@app.command()
@clear_errors("train")
def draw(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the pictures.")],
    source: Annotated[str, typer.Option(help="Words with spaces between.")] = SENTENCE,
    place: Annotated[
        int, typer.Option(min=0, help="Which of the model's words is shown in numbers, from 0.")
    ] = 1,
    photo: Annotated[
        Path | None, typer.Option(help="Also draw what the words of its caption draw on.")
    ] = None,
) -> None:
    """Draw one look in numbers, self- beside cross-attention, and the grid of a translation."""
    from vlm.attend.alignment_picture import save_alignment
    from vlm.attend.source import gather_alignment

    from .drawings import draw_numbers, draw_self_and_cross, look_inside
    from .learning import open_lesson

    model, choice = open_lesson(folder)
    pair = model.read(source.lower().split())
    if place >= len(pair.words):
        fail(f"the model writes {len(pair.words)} words, so --place is less than that, not {place}")
    out.mkdir(parents=True, exist_ok=True)
    inside = look_inside(model, pair.source, pair.words, choice.layer)
    draw_numbers(out / "numbers.png", inside, place)
    draw_self_and_cross(out / "self-and-cross.png", inside)
    save_alignment(out / "translation.png", gather_alignment(pair, choice.layer))
    if photo is not None:
        import vlm

        from .drawings import draw_patches, draw_shares

        image = vlm.load().encode(photo)
        maps = image.caption(beams=3).maps(method="attention")
        draw_patches(out / "patches.webp", image, maps)
        draw_shares(out / "segments.png", maps)
    for picture in sorted([*out.glob("*.png"), *out.glob("*.webp")]):
        print(picture)


if __name__ == "__main__":
    run_program(app)
