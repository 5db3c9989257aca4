"""Measure whether a model's maps are true: `vlm faithfulness [MODEL] --data DIR`

In a checkout `python -m training.faithfulness` is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm.cli.arguments import Device
from vlm.cli.failures import clear_errors, fail

if TYPE_CHECKING:
    from .evaluation.grounding.places import Example

SCENES = 200
TUNING = 100  # train photos by which each method's boxes get their level
CHECKED = 50  # photos that are mirrored, moved and saved anew, and explained by destroyed models
PHOTOS = 100  # whose pictures are changed; each change is encoded anew
GONE = {"mean": "the mean colour", "blur": "blurred"}

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
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.md", help="Write the tables as a grounding card, beside the model card."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge the maps of a model by every method, beside maps that know nothing of the words.

    Each table has 95 % intervals, bootstrapped over photos with a fixed seed, and what a method costs.
    """
    from vlm.explain.maps import METHODS
    from vlm.loading import load
    from vlm.weights.hub import DEFAULT

    from .data.readers import read
    from .data.report import Report
    from .evaluation.grounding import choose_heads as choose
    from .evaluation.grounding.curves import FILLS, curves
    from .evaluation.grounding.explainers import BASELINES, explainers
    from .evaluation.grounding.grounding_tables import (
        curves_table,
        effects_table,
        f1_table,
        pointing_table,
        sanity_table,
        write_card,
    )
    from .evaluation.grounding.localised import Classes, best_level, localise
    from .evaluation.grounding.pointing import caption_seconds, first_photos, point
    from .evaluation.grounding.sanity import check
    from .evaluation.grounding.things import shapes_of_easy_vqa, things_of_scenes
    from .evaluation.grounding.word_effects import caption_effects

    if card is not None and not card.parent.is_dir():
        fail(f"--card: there is no folder {card.parent}")
    quick = [name for name, how in METHODS.items() if not how.gradients and not how.encodings]
    methods = method or quick
    if unknown := [name for name in methods if name not in METHODS]:
        fail(f"there is no method {unknown[0]!r}; there are: {', '.join(METHODS)}")
    gradients = any(METHODS[name].gradients for name in methods)
    captioner = load(model, device=device, gradients=gradients)
    judged = explainers(methods)
    pictures = Report(limit=1)
    if choose_heads:
        if model is None or not Path(model).is_dir():
            fail("--choose-heads writes into the checkpoint MODEL: name its folder")
        photos = first_photos(entities(data, "train"), limit or PHOTOS)
        heads, agreed = choose.choose_heads(captioner, photos, pictures)
        choose.write_heads(Path(model), heads)
        print(f"alignment_heads: {heads}; their mean correlates with occlusion by {agreed:.2f}")
        return
    tables = []
    wanted = measure or list(Measure)
    if measure is None and not stamps.is_dir():
        wanted.remove(Measure.scenes)
        typer.echo(f"there are no pictures in {stamps} to make scenes of; see --stamps", err=True)
    sources: dict[Measure, tuple[str, Callable[[], list[Example]]]] = {
        Measure.entities: (
            f"Pointing at phrases of Flickr8k {split}, human captions typed in",
            lambda: entities(data, split),
        ),
        Measure.easy_vqa: (
            f"Pointing at the shape of easy-VQA {split}, right answers typed in",
            lambda: shapes_of_easy_vqa(read("easy-vqa", "easy_vqa", split)),
        ),
        Measure.scenes: (
            "Pointing at one of three to five things, in composed scenes",
            lambda: things_of_scenes(stamps, split, limit or SCENES),
        ),
    }
    for name, (title, examples_of) in sources.items():
        if name not in wanted:
            continue
        examples = first_photos(examples_of(), limit)
        caption_ms = 1000 * caption_seconds(captioner, examples)
        pointed = point(captioner, examples, judged, pictures)
        tables.append(pointing_table(title, pointed, phrase.value, caption_ms))
    if Measure.captions in wanted:
        train = entities(data, "train")
        classes = Classes.of(named.words for example in train for named in example.named)
        shown = first_photos(train, min(TUNING, limit or TUNING))
        levels = {n: best_level(captioner, shown, e, pictures) for n, e in judged.items()}
        captions = first_photos(entities(data, split, once=False), limit)
        found = localise(captioner, captions, judged, levels, classes, pictures)
        title = f"Things named and boxed in the model's captions, Flickr8k {split}"
        tables.append(f1_table(title, found, levels))
    if Measure.curves in wanted:
        photos = first_photos(entities(data, split), limit or PHOTOS)
        for fill in FILLS:
            curved = curves(captioner, photos, judged, fill, pictures)
            title = f"Deletion and insertion, Flickr8k {split}, what is gone is {GONE[fill]}"
            tables.append(curves_table(title, curved, list(BASELINES)))
    if Measure.sanity in wanted:
        photos = first_photos(entities(data, split), min(CHECKED, limit or CHECKED))
        plain = captioner if gradients else load(model, device=device, gradients=True)
        title = f"What changes a map, Flickr8k {split}"
        tables.append(sanity_table(title, check(plain, photos, judged, pictures)))
    if Measure.effects in wanted:
        captions = first_photos(entities(data, split, once=False), limit)
        title = f"What the image did for the words of captions, Flickr8k {split}"
        tables.append(effects_table(title, caption_effects(captioner, captions, pictures)))
    if card is not None:
        write_card(card, model or DEFAULT, tables)
    if as_json:
        print(json.dumps([table.to_dict() for table in tables]))
    else:
        print("\n\n".join(table.markdown() for table in tables))
    if pictures.broken:
        typer.secho(f"images: {pictures.summary()}", err=True, fg="red")
        raise typer.Exit(1)


def entities(data: Path, split: str, once: bool = True) -> list[Example]:
    """Captions of Flickr8k with their phrases' places, each phrase `once`."""
    from .data.readers import read
    from .evaluation.grounding.entities import read_entities

    captions = list(read(data / "flickr8k", "flickr8k", split))
    return read_entities(data / "flickr8k_entities" / "boxes.tsv", captions, once)


if __name__ == "__main__":
    app()
