"""Measure whether a model's maps are true: `vlm faithfulness [MODEL] --data DIR`

In a checkout `python -m training.faithfulness` is the same.
"""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device
from vlm.cli.failures import clear_errors, fail, run_program

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Measure(StrEnum):
    entities = "entities"
    easy_vqa = "easy-vqa"
    scenes = "scenes"
    curves = "curves"
    captions = "captions"
    sanity = "sanity"
    effects = "effects"


class Phrase(StrEnum):
    mean = "mean"
    max = "max"
    last = "last"


@app.command()
@clear_errors("train")
def faithfulness(
    data: Annotated[
        Path, typer.Option(help="The folder that holds `flickr8k` and `flickr8k_entities`.")
    ],
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", show_default="the bundled model", help="As for evaluate."),
    ] = None,
    measure: Annotated[
        list[Measure] | None, typer.Option(help="What to measure.", show_default="everything")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method to judge. With relevance all run on plain torch, which has gradients.",
            show_default="all but relevance and pixels",
        ),
    ] = None,
    stamps: Annotated[
        Path,
        typer.Option(help="Pictures of single things that scenes are made of: Tux Paint's stamps."),
    ] = Path("/usr/share/tuxpaint/stamps"),
    split: Annotated[str, typer.Option(help="dev to choose by; test once, at the end.")] = "dev",
    phrase: Annotated[
        Phrase, typer.Option(help="Of its words' maps, which is a phrase's.")
    ] = Phrase.mean,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first photos of each measure.")
    ] = None,
    device: Device = "auto",
    choose_heads: Annotated[
        bool,
        typer.Option(
            "--choose-heads",
            help="Measure nothing, but write into MODEL, a folder, which heads its maps are made of: those that "
            "look where hiding patches costs words of train captions most. No boxes are used.",
        ),
    ] = False,
    fit_supervised: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.json",
            help="Measure nothing, but fit powers of the model's maps to boxes of train photos, and write them there.",
        ),
    ] = None,
    supervised: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Powers that --fit-supervised wrote, for a row in the tables of pointing that has seen boxes.",
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.md",
            help="Put each table into this grounding card, beside the model card, in place of one with its title.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a table, a line each.")
    ] = False,
) -> None:
    """Judge the maps of a model by every method, beside maps that know nothing of the words.

    Each table is printed as soon as it is measured. It has 95 % intervals, bootstrapped over photos with a fixed seed,
    and what a method costs.
    """
    from vlm.explain.maps import METHODS
    from vlm.loading import load
    from vlm.weights.hub import DEFAULT

    from .evaluation.grounding import choose_heads as choose
    from .evaluation.grounding.explainers import explainers
    from .evaluation.grounding.grounding_card import check_card, put
    from .evaluation.grounding.grounding_measures import MEASURES, PHOTOS, Asked
    from .evaluation.grounding.pointing import first_photos
    from .evaluation.grounding.supervised import FITTED, fit, read_boxed, read_powers, write_powers

    if card is not None:
        check_card(card)  # what is wrong is told before the work is done
    if supervised is not None:
        read_powers(supervised)
    quick = [name for name, how in METHODS.items() if not how.gradients and not how.encodings]
    methods = method or quick
    if unknown := [name for name in methods if name not in METHODS]:
        fail(f"there is no method {unknown[0]!r}; there are: {', '.join(METHODS)}")
    gradients = any(METHODS[name].gradients for name in methods)
    captioner = load(model, device=device, gradients=gradients)
    asked = Asked(
        captioner,
        model,
        explainers(methods),
        data,
        split,
        stamps,
        phrase.value,
        limit,
        device,
        supervised,
    )
    if choose_heads:
        if model is None or not Path(model).is_dir():
            fail("--choose-heads writes into the checkpoint MODEL: name its folder")
        photos = first_photos(asked.entities("train"), limit or PHOTOS)
        heads, agreed = choose.choose_heads(captioner, photos, asked.pictures)
        choose.write_heads(Path(model), heads)
        print(f"alignment_heads: {heads}; their mean correlates with occlusion by {agreed:.2f}")
        return
    if fit_supervised is not None:
        photos = first_photos(asked.entities("train"), limit or FITTED)
        powers = fit(read_boxed(captioner, photos, asked.pictures))
        write_powers(fit_supervised, powers, len({example.image.key for example in photos}))
        print(fit_supervised.read_text(encoding="utf-8"), end="")
        return
    wanted = [name for name in MEASURES if measure is None or name in measure]
    if measure is None and not stamps.is_dir():
        wanted.remove(Measure.scenes)
        typer.echo(f"there are no pictures in {stamps} to make scenes of; see --stamps", err=True)
    for number, name in enumerate(wanted):
        typer.echo(f"{name}: {number + 1} of {len(wanted)} measures", err=True)
        start = time.perf_counter()
        for table in MEASURES[name](asked):
            print(json.dumps(table.to_dict()) if as_json else f"{table.markdown()}\n", flush=True)
            if card is not None:
                put(card, model or DEFAULT, table)
        typer.echo(f"{name}: {time.perf_counter() - start:.0f} s", err=True)
    if asked.pictures.broken:
        typer.secho(f"images: {asked.pictures.summary()}", err=True, fg="red")
        raise typer.Exit(1)


if __name__ == "__main__":
    run_program(app)
