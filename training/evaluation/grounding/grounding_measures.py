"""Everything that is measured of a model's maps: each measure gives its tables, one by one as they are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlm.captioner import Captioner
from vlm.loading import load

from ...data.readers import read
from ...data.report import Report
from .curves import FILLS, Fill, curves
from .entities import read_entities
from .explainers import BASELINES, Explainer
from .grounding_tables import (
    Table,
    curves_table,
    effects_table,
    f1_table,
    pointing_table,
    sanity_table,
)
from .localised import Classes, best_levels, localise
from .places import Example
from .pointing import Pooling, caption_seconds, first_photos, point
from .sanity import check
from .supervised import NAME, by_powers, read_powers
from .things import shapes_of_easy_vqa, things_of_scenes
from .word_effects import caption_effects

SCENES = 200
TUNING = 100  # train photos by which each method's boxes get their level
CHECKED = 50  # photos that are mirrored, moved and saved anew, and explained by destroyed models
PHOTOS = 100  # whose pictures are changed; each change is encoded anew
GONE: Mapping[Fill, str] = {"mean": "the mean colour", "blur": "blurred"}


@dataclass
class Asked:
    """What is measured: a model's maps by each explainer, on a split of the data in a folder.

    `model` is what loads it anew, for a measure that needs gradients or layers to destroy. `limit` keeps to the first
    photos of each measure; `supervised` holds powers that were fitted to boxes, a row of their own where a
    map points. Images that cannot be read are told in `pictures`.
    """

    captioner: Captioner
    model: str | None
    judged: Mapping[str, Explainer]
    data: Path
    split: str
    stamps: Path
    phrase: Pooling = "mean"
    limit: int | None = None
    device: str = "auto"
    supervised: Path | None = None
    pictures: Report = field(default_factory=lambda: Report(limit=1))

    def entities(self, split: str | None = None, once: bool = True) -> list[Example]:
        """Captions of Flickr8k with their phrases' places, each phrase `once`; of another split where it is named."""
        captions = list(read(self.data / "flickr8k", "flickr8k", split or self.split))
        return read_entities(self.data / "flickr8k_entities" / "boxes.tsv", captions, once)

    def photos(self, examples: Sequence[Example], most: int | None = None) -> list[Example]:
        """The examples of as many first photos as asked for, and of at most `most` where it is given."""
        counts = [count for count in (self.limit, most) if count is not None]
        return first_photos(examples, min(counts, default=None))


def entities(asked: Asked) -> Iterator[Table]:
    title = f"Pointing at phrases of Flickr8k {asked.split}, human captions typed in"
    yield _pointing(asked, title, asked.photos(asked.entities()))


def easy_vqa(asked: Asked) -> Iterator[Table]:
    title = f"Pointing at the shape of easy-VQA {asked.split}, right answers typed in"
    shapes = shapes_of_easy_vqa(read("easy-vqa", "easy_vqa", asked.split))
    yield _pointing(asked, title, asked.photos(shapes))


def scenes(asked: Asked) -> Iterator[Table]:
    title = "Pointing at one of three to five things, in composed scenes"
    count = asked.limit or SCENES
    yield _pointing(asked, title, things_of_scenes(asked.stamps, asked.split, count))


def _pointing(asked: Asked, title: str, examples: list[Example]) -> Table:
    judged = dict(asked.judged)
    if asked.supervised is not None:
        judged[NAME] = by_powers(read_powers(asked.supervised))
    caption_ms = 1000 * caption_seconds(asked.captioner, examples)
    pointed = point(asked.captioner, examples, judged, asked.pictures)
    return pointing_table(title, pointed, asked.phrase, caption_ms)


def captions(asked: Asked) -> Iterator[Table]:
    train = asked.entities("train")
    classes = Classes.of(named.words for example in train for named in example.named)
    shown = asked.photos(train, TUNING)
    levels = best_levels(asked.captioner, shown, asked.judged, asked.pictures)
    examples = asked.photos(asked.entities(once=False))
    found = localise(asked.captioner, examples, asked.judged, levels, classes, asked.pictures)
    title = f"Things named and boxed in the model's captions, Flickr8k {asked.split}"
    yield f1_table(title, found, levels)


def deletion_and_insertion(asked: Asked) -> Iterator[Table]:
    examples = first_photos(asked.entities(), asked.limit or PHOTOS)
    for fill in FILLS:
        curved = curves(asked.captioner, examples, asked.judged, fill, asked.pictures)
        title = f"Deletion and insertion, Flickr8k {asked.split}, what is gone is {GONE[fill]}"
        yield curves_table(title, curved, list(BASELINES))


def sanity(asked: Asked) -> Iterator[Table]:
    examples = asked.photos(asked.entities(), CHECKED)
    plain = load(asked.model, device=asked.device, gradients=True)
    checked = check(plain, examples, asked.judged, asked.pictures)
    yield sanity_table(f"What changes a map, Flickr8k {asked.split}", checked)


def effects(asked: Asked) -> Iterator[Table]:
    examples = asked.photos(asked.entities(once=False))
    title = f"What the image did for the words of captions, Flickr8k {asked.split}"
    yield effects_table(title, caption_effects(asked.captioner, examples, asked.pictures))


MEASURES: Mapping[str, Callable[[Asked], Iterator[Table]]] = {
    "entities": entities,
    "easy-vqa": easy_vqa,
    "scenes": scenes,
    "captions": captions,
    "curves": deletion_and_insertion,
    "sanity": sanity,
    "effects": effects,
}
