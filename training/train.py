"""Train a model from a recipe: `python -m training.train RECIPE.yaml --data DIR --out DIR key=value ...`"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich import print

from training.data.readers import read
from training.data.records import DataError, Record
from training.encoders import load_package_weights
from training.examples import Group, clean_text, group_by_image
from training.features import FeatureCache, fingerprint
from training.loop import train
from training.recipe import Recipe, RecipeError, Source, load_recipe
from vlm.config import DecoderConfig, ModelConfig, VisionConfig
from vlm.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer
from vlm.vision import VisionEncoder, default_preprocess


def read_source(source: Source, data: Path, split: str) -> list[Record]:
    """The records of one split of a recipe's source."""
    return list(read(source.path.format(data=data), source.format, split))


def make_encoder(recipe: Recipe) -> VisionEncoder:
    """The recipe's encoder with its pretrained weights."""
    config = VisionConfig(
        recipe.vision.name, default_preprocess(recipe.vision.name, recipe.vision.size)
    )
    encoder = VisionEncoder(config, pretrained=recipe.vision.weights == "timm")
    if recipe.vision.weights not in ("timm", "random"):
        load_package_weights(encoder, recipe.vision.weights)
    return encoder.eval()


def training_texts(groups: list[Group]) -> list[str]:
    """What the vocabulary is learnt from: the texts of the training split and nothing else."""
    records = [record for group in groups for record in group.records]
    return [clean_text(text) for r in records for text in (r.question or "", *r.texts) if text]


def main(
    recipe_path: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
    data: Annotated[Path, typer.Option(help="folder that holds the datasets")] = Path("data"),
    out: Annotated[Path, typer.Option(help="folder of this run; resumed if it exists")] = Path(
        "runs/small"
    ),
    cache: Annotated[Path, typer.Option(help="folder of the encoder's features")] = Path("cache"),
) -> None:
    """Train a captioning and question answering model."""
    try:
        run(load_recipe(recipe_path, overrides or []), data, out, cache)
    except (RecipeError, DataError) as error:
        print(f"[red]error:[/red] {error}")
        raise typer.Exit(2) from None


def run(recipe: Recipe, data: Path, out: Path, cache: Path) -> None:
    from vlm.weights.store import save_checkpoint

    out.mkdir(parents=True, exist_ok=True)
    groups = [g for s in recipe.sources for g in group_by_image(read_source(s, data, s.split), s)]
    dev_groups = [
        g
        for s in recipe.sources
        for g in group_by_image(
            read_source(s, data, "val" if s.format == "vqa_v2" else "dev"),
            replace(s, mirror=False, share=1.0),  # dev is measured as it is
        )
    ]
    encoder = make_encoder(recipe)
    mirrored = [g.image for g in groups if g.source.mirror and not g.names_a_side]
    features = FeatureCache.build(
        cache / fingerprint(encoder), encoder, [g.image for g in groups + dev_groups], mirrored
    )
    groups = [g for g in groups if g.image.key in features]
    dev_groups = [g for g in dev_groups if g.image.key in features]

    tokenizer_path = out / "tokenizer.json"
    tokenizer = Tokenizer.train(training_texts(groups), recipe.vocab_size)
    tokenizer.save(tokenizer_path)
    decoder = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        width=recipe.decoder.width,
        depth=recipe.decoder.depth,
        heads=recipe.decoder.heads,
        max_length=recipe.decoder.max_length,
        memory_width=recipe.decoder.width,
        dropout=recipe.decoder.dropout,
    )
    model = VisionLanguageModel(ModelConfig(encoder.config, decoder, licence=recipe.licence))
    model.vision.load_state_dict(encoder.state_dict())
    trained = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in model.vision.parameters()
    )
    print(f"{len(groups)} images to train on, {len(dev_groups)} dev; {trained:,} parameters learn")
    model = train(model, tokenizer, groups, dev_groups, features, recipe, out)
    save_checkpoint(out / "model", model, tokenizer)


if __name__ == "__main__":
    typer.run(main)
