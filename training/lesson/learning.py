"""A lesson's recipe, its training, and what held-out pairs say of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch.optim.lr_scheduler import OneCycleLR

from vlm.typed import Count, Natural, Positive, Share, build, check_fields

from ..data.readers import read
from ..evaluation.metrics.alignment import Link, alignment_error_rate, links_of
from ..recipe.recipe import RecipeError, read_values
from .grammar import sentences
from .headlines import headlines
from .pairs import AlignedPair, LessonError, Vocabulary
from .translator import LONGEST, ReadPair, Translator, padded

RECIPES = Path(__file__).parent
WEIGHTS, WORDS = "model.safetensors", "lesson.json"
LEAST = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""From which share of a row on its source words may be linked, beside the largest."""


@dataclass(frozen=True)
class LessonRecipe:
    """All that a run depends on.

    Of `task` translation, `examples` pairs are drawn to learn from and `held_out` pairs twice: to choose by, and to
    tell figures of. Headlines are of the dataset's own splits, at most so many. Words that the learnt pairs have fewer
    than `least_often` times are unknown.
    """

    task: Literal["translation", "headlines"]
    examples: Count
    held_out: Count
    steps: Count
    batch: Count = 64
    learning_rate: Positive = 3e-3
    width: Count = 64
    heads: Count = 1
    depth: Count = 1
    dropout: Share = 0.1
    least_often: Count = 1
    seed: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        if self.width % self.heads:
            raise RecipeError(f"width {self.width} is not a multiple of heads {self.heads}")


@dataclass(frozen=True)
class Splits:
    """Pairs to learn from, to choose by and to tell figures of; no source is in two of them."""

    train: list[AlignedPair]
    dev: list[AlignedPair]
    test: list[AlignedPair]


@dataclass(frozen=True)
class Scores:
    """Shares of held-out pairs, each from 0 to 1.

    `exact` are targets that the model writes word for word. The alignment error rates are of attention while it reads
    the right target, whose links are known: `aer` with possible links, `strict_aer` with sure ones alone, and
    `diagonal_aer` of an alignment that knows nothing but the two lengths.
    """

    exact: float
    aer: float
    strict_aer: float
    diagonal_aer: float


@dataclass(frozen=True)
class Choice:
    """Which links attention gives: of a `layer`, in the mean over its heads, by `links_of` with its `least`."""

    layer: int
    least: float

    def links(self, read: ReadPair) -> set[Link]:
        return links_of(read.attention[self.layer].mean(dim=0), self.least)


def load_lesson(path: str | Path, overrides: Sequence[str] = ()) -> LessonRecipe:
    """A recipe, a file or the name of one in this folder. Raises RecipeError where something does not fit."""
    values = read_values(path, overrides, RECIPES)
    return build(LessonRecipe, values, RecipeError, "a lesson's recipe")


def draw(recipe: LessonRecipe, data: Path) -> Splits:
    """The recipe's pairs; headlines are of captions in `data`/flickr8k.

    Raises DataError where that is not, LessonError where a split has no headline.
    """
    sizes = (recipe.examples, recipe.held_out, recipe.held_out)
    if recipe.task == "translation":
        drawn = sentences(recipe.seed)
        return Splits(*(list(islice(drawn, size)) for size in sizes))
    seen: set[tuple[str, ...]] = set()
    parts = []
    for split, size in zip(("train", "dev", "test"), sizes):
        records = read(data / "flickr8k", "flickr8k", split)
        new = (
            pair
            for pair in headlines(records)
            if pair.source not in seen and len(pair.source) < LONGEST
        )
        parts.append(list(islice(new, size)))
        if not parts[-1]:
            raise LessonError(f"no caption of {data / 'flickr8k'}'s {split} split has a headline")
        seen |= {pair.source for pair in parts[-1]}
    return Splits(*parts)


def learn(
    recipe: LessonRecipe,
    train: Sequence[AlignedPair],
    tell: Callable[[int, float], None] = lambda step, loss: None,
) -> Translator:
    """A model that has learnt the recipe's steps, on the CPU; `tell` hears of each step's number and loss in nats.

    Alignments are never shown to it: the loss is that of the next word.
    """
    torch.manual_seed(recipe.seed)
    vocabulary = Vocabulary.of(train, recipe.least_often)
    model = Translator(vocabulary, recipe.width, recipe.heads, recipe.depth, recipe.dropout)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1)
    order = random.Random(f"{recipe.seed}/order")
    for step in range(1, recipe.steps + 1):
        batch = order.sample(train, min(recipe.batch, len(train)))
        ids = padded(
            [[Vocabulary.START, *vocabulary.encode(p.target), Vocabulary.END] for p in batch]
        )  # (B, 1 + T + 1)
        logits = model(model.encode([pair.source for pair in batch]), ids[:, :-1])
        wanted = ids[:, 1:].flatten()
        loss = F.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=Vocabulary.PAD)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        tell(step, loss.item())
    return model.eval()


def choose(model: Translator, dev: Sequence[AlignedPair]) -> Choice:
    """The choice whose links are nearest to the known ones."""
    read = [model.read(pair.source, pair.target) for pair in dev]
    choices = [Choice(layer, least) for layer in range(len(read[0].attention)) for least in LEAST]
    return min(choices, key=lambda choice: _error([choice.links(own) for own in read], dev))


def score(model: Translator, pairs: Sequence[AlignedPair], choice: Choice) -> Scores:
    """What held-out pairs say of a model and of a choice of links."""
    written = [
        words
        for start in range(0, len(pairs), 100)
        for words in model.translate([pair.source for pair in pairs[start : start + 100]])
    ]
    exact = sum(tuple(words) == pair.target for words, pair in zip(written, pairs)) / len(pairs)
    links = [choice.links(model.read(pair.source, pair.target)) for pair in pairs]
    strict = [replace(pair, possible=pair.sure) for pair in pairs]
    diagonals = [diagonal(len(pair.target), len(pair.source)) for pair in pairs]
    return Scores(exact, _error(links, pairs), _error(links, strict), _error(diagonals, pairs))


def _error(links: Sequence[set[Link]], pairs: Sequence[AlignedPair]) -> float:
    return alignment_error_rate((own, p.sure, p.possible) for own, p in zip(links, pairs))


def diagonal(target: int, source: int) -> set[tuple[int, int]]:
    """Each target word with the source word at its share of the length."""
    return {(t, (2 * t + 1) * source // (2 * target)) for t in range(target)}


def save_lesson(folder: Path, model: Translator, recipe: LessonRecipe, choice: Choice) -> None:
    """Write the weights and what they depend on into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS))
    said = {"recipe": asdict(recipe), "choice": asdict(choice), "words": model.vocabulary.words}
    (folder / WORDS).write_text(json.dumps(said, ensure_ascii=False, indent=1), encoding="utf-8")


def open_lesson(folder: Path) -> tuple[Translator, Choice]:
    """What `save_lesson` wrote: the model and its choice of links. Raises LessonError for another folder."""
    try:
        said = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        recipe = build(LessonRecipe, said["recipe"], RecipeError, "its recipe")
        model = Translator(Vocabulary(said["words"]), recipe.width, recipe.heads, recipe.depth, 0.0)
        load_model(model, str(folder / WEIGHTS))
        choice = Choice(**said["choice"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LessonError(
            f"{folder} holds no model that `vlm lesson train` wrote ({reason})"
        ) from None
    return model.eval(), choice
