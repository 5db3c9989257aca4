"""The steps of an epoch: which images each takes, and what one process makes of its part of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch.utils.data import Dataset

from vlm.tokenizer import Tokenizer

from ..data.invented_facts import Sheet, sheet
from ..data.mixing import attempt, epoch_order
from ..data.named_captions import captions_by_thing, named_sheet
from ..data.report import Broken
from ..recipe.recipe import InventedDocuments, Recipe
from ..recipe.sources import Group
from .examples import NOTHING_TOLD, Batch, asked_of, examples, make_batch
from .inputs import Inputs
from .told_names import told


@dataclass(frozen=True)
class Part:
    """One process's part of a step: its batches, and the images that it had to leave out by source."""

    batches: tuple[Batch, ...]
    broken: tuple[tuple[int, Broken], ...]


class EpochSteps(Dataset[Part]):
    """One epoch, a step at a time, for a DataLoader with `batch_size=None`.

    The order is a pure function of seed and epoch, and so is all that is drawn for an image (its questions, its
    answers, its mirroring and its crop). Processes and parts only cut a step's images, so neither changes what a
    step learns.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Group]],
        inputs: Inputs,
        tokenizer: Tokenizer,
        max_length: int,
        recipe: Recipe,
        epoch: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        weights = [source.weight for source in recipe.sources]
        self.order = epoch_order([len(s) for s in sources], weights, recipe.seed, epoch)
        self.sources = sources
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.recipe = recipe
        self.epoch = epoch
        self.rank = rank
        self.world = world
        self.captions: dict[str, list[str]] = {}
        if recipe.documents is not None and recipe.documents.captions:
            records = (record for own in sources for group in own for record in group.records)
            self.captions = captions_by_thing(records)

    def __len__(self) -> int:
        return -(-len(self.order) // self.recipe.batch_images)

    def __getitem__(self, step: int) -> Part:
        first = step * self.recipe.batch_images
        places = range(first, min(first + self.recipe.batch_images, len(self.order)))
        mine = places[self.rank :: self.world]
        broken: list[tuple[int, Broken]] = []
        parts = [mine[i :: self.recipe.accumulate] for i in range(self.recipe.accumulate)]
        return Part(tuple(self._batch(part, broken) for part in parts), tuple(broken))

    def _batch(self, places: Sequence[int], broken: list[tuple[int, Broken]]) -> Batch:
        keys, images, rows, names = [], [], [], []
        passages: list[list[list[int]]] = []
        documents = self.recipe.documents
        for place in places:
            source, index = self.order[place]
            group = self.sources[source][index]
            generator = random.Random(f"{self.recipe.seed}/{self.epoch}/{place}")
            taught, name, share = group, NOTHING_TOLD, self.recipe.tell_names
            if share and generator.random() < share and (renamed := told(group, generator)):
                record, name = renamed
                taught = replace(group, records=(record,))
            beside: list[list[int]] = []
            if documents is None:
                drawn = examples(taught, self.tokenizer, self.max_length, generator)
            else:
                about = self._sheet(group, documents, generator)
                drawn, beside = asked_of(about, self.tokenizer, self.max_length, documents.length)
            load = partial(self.inputs.load, generator=generator)
            image = attempt(load, group, group.image)
            if isinstance(image, Broken):
                broken.append((source, image))
                continue
            keys.append(group.image.key)
            images.append(image)
            rows.append(drawn)
            names.append(name)
            passages.append(beside)
        beside_all = passages if documents is not None else ()
        return make_batch(keys, images, rows, self.inputs, self.tokenizer.pad, names, beside_all)

    def _sheet(self, group: Group, documents: InventedDocuments, generator: random.Random) -> Sheet:
        """What stands beside an image: captions of similar photos, or facts, also where nothing of it has a name."""
        records, most, rows = group.records, documents.passages, documents.questions
        if documents.captions and generator.random() < documents.captions:
            named = named_sheet(records, self.captions, generator, most, rows)
            if named is not None:
                return named
        return sheet(records, generator, most, rows)


def steps_of_epochs(sources: Sequence[Sequence[Group]], recipe: Recipe) -> list[int]:
    """How many steps each epoch of the recipe has."""
    sizes = [len(groups) * source.weight for groups, source in zip(sources, recipe.sources)]
    return [
        -(
            -sum(int(size * (epoch + 1)) - int(size * epoch) for size in sizes)
            // recipe.batch_images
        )
        for epoch in range(recipe.epochs)
    ]
