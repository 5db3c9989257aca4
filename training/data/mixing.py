"""The order of an epoch over several sources, cut for ranks and workers, past what is broken.

The order is a pure function of (seed, epoch). Ranks and workers only cut it, so the batches of an
epoch are the same records whatever their number.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from vlm.images import ImageError

from .records import DataError, Record
from .report import Broken, Report
from .webdataset import read_shard

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def epoch_order(
    sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int
) -> list[tuple[int, int]]:
    """Return the shuffled (source, index) pairs of one epoch.

    A weight says how often an epoch sees each item of its source: 1 is once, 2 is twice, 0.25 is a
    quarter of the items. Quarters of consecutive epochs follow one permutation, so that four of
    them see every item once. Raises DataError for weights that are negative or all zero.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise DataError(f"The weights of sources must be 0 or more, not {list(weights)}.")
    pairs: list[tuple[int, int]] = []
    for source, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        start, stop = int(size * weight * epoch), int(size * weight * (epoch + 1))
        turn, order = -1, []
        for position in range(start, stop):
            if position // size != turn:
                turn, order = position // size, list(range(size))
                random.Random(f"{seed}/{source}/{turn}").shuffle(order)
            pairs.append((source, order[position % size]))
    if not pairs:
        raise DataError(f"Sources of {list(sizes)} items with weights {list(weights)} give none.")
    random.Random(f"{seed}/{epoch}").shuffle(pairs)
    return pairs


def shuffle_buffer(items: Iterable[Item], size: int, generator: random.Random) -> Iterator[Item]:
    """Yield the items in a random order while holding at most `size` of them."""
    items = iter(items)
    held = list(islice(items, size))
    for item in items:
        place = generator.randrange(size)
        held[place], out = item, held[place]
        yield out
    generator.shuffle(held)
    yield from held


def rank_batches(
    items: Iterable[Item], batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[list[Item]]:
    """Yield the batches of one rank: every `world`-th item of each `batch_size * world` items.

    All ranks have equally many batches of equal size; the last may be short, and up to `world - 1`
    items at the very end go to no rank.
    """
    items = iter(items)
    while whole := list(islice(items, batch_size * world)):
        if batch := whole[: len(whole) // world * world][rank::world]:
            yield batch


def attempt(load: Callable[[Item], Loaded], item: Item, where: object) -> Loaded | Broken:
    """Return `load(item)`, or what is broken about its data; an error of the code is raised."""
    try:
        return load(item)
    except (DataError, ImageError) as error:
        return Broken(str(where), str(error))


def sift(batch: Iterable[Loaded | Broken], report: Report) -> list[Loaded]:
    """Return what loaded and put what is broken into the report.

    Runs in the main process, on what came from the workers. Raises DataError when too large a
    share is broken.
    """
    loaded: list[Loaded] = []
    for item in batch:
        if isinstance(item, Broken):
            report.skip(item)
        else:
            report.good += 1
            loaded.append(item)
    return loaded


class MixedDataset(Dataset, Generic[Item, Loaded]):
    """Several sources in memory, addressed by the (source, index) pairs of `epoch_order`.

    For a DataLoader with `batch_sampler=list(rank_batches(epoch_order(...), ...))` and
    `collate_fn=list`, followed by `sift`. `load` runs in the workers; for an item whose data are
    broken the dataset gives a `Broken`.
    """

    def __init__(self, sources: Sequence[Sequence[Item]], load: Callable[[Item], Loaded]) -> None:
        self.sources = sources
        self.load = load

    def __getitem__(self, place: tuple[int, int]) -> Loaded | Broken:
        source, index = place
        item = self.sources[source][index]
        return attempt(self.load, item, getattr(item, "image", place))


def stream_shards(
    sources: Sequence[Sequence[Path]],
    weights: Sequence[float],
    seed: int,
    epoch: int,
    buffer: int,
    report: Report | None = None,
) -> Iterator[Record]:
    """Yield the records of an epoch's shards, shuffled within a buffer of `buffer` records.

    Shards are drawn as `epoch_order` draws items. Only texts are read here: the images stay in the
    shards until a record's image is read, so a worker can pass over the records of others.
    """
    shards = epoch_order([len(shards) for shards in sources], weights, seed, epoch)
    records = chain.from_iterable(read_shard(sources[s][i], report) for s, i in shards)
    return shuffle_buffer(records, buffer, random.Random(f"{seed}/{epoch}/buffer"))


class ShardStream(IterableDataset, Generic[Loaded]):
    """Batches from shards that do not fit into memory, for `DataLoader(stream, batch_size=None)`.

    Each batch is a list of what `load` made of the records, with a `Broken` for each record that
    is broken; follow it by `sift`. Workers take turns by batch. `seek` sets the epoch and the
    batch to start from, which skips without reading images.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Path]],
        weights: Sequence[float],
        load: Callable[[Record], Loaded],
        batch_size: int,
        seed: int,
        buffer: int = 10_000,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sources = sources
        self.weights = weights
        self.load = load
        self.batch_size = batch_size
        self.seed = seed
        self.buffer = buffer
        self.rank = rank
        self.world = world
        self.seek(epoch=0)

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration start at this batch of this epoch."""
        self.epoch = epoch
        self.start = batch

    def __iter__(self) -> Iterator[list[Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # The share is judged in the main process, by `sift`. All workers meet the same broken
        # rows, so the first one alone passes them on.
        rows = Report(limit=1)
        records = stream_shards(
            self.sources, self.weights, self.seed, self.epoch, self.buffer, rows
        )
        batches = rank_batches(records, self.batch_size, self.rank, self.world)
        told = 0
        for batch in islice(batches, self.start + worker, None, workers):
            loaded = [attempt(self.load, record, record.image) for record in batch]
            news, told = rows.broken[told:], len(rows.broken)
            yield loaded + (news if worker == 0 else [])
        if worker == 0 and rows.broken[told:]:
            yield rows.broken[told:]
