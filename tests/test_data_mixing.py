from __future__ import annotations

import io
import random
import tarfile
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from training.data.mixing import (
    MixedDataset,
    ShardStream,
    epoch_order,
    rank_batches,
    shuffle_buffer,
    sift,
    stream_shards,
)
from training.data.records import DataError, ImageRef, Record
from training.data.report import Broken, Report
from training.data.webdataset import write_shards
from vlm.images import load_image

FIXTURES = Path(__file__).parent / "fixtures"
PICTURE = (FIXTURES / "kohya" / "5_square" / "0.png").read_bytes()

sizes_and_weights = st.lists(
    st.tuples(st.integers(1, 20), st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0])),
    min_size=1,
    max_size=4,
)


def test_order_is_fixed_for_good():
    """A resumed run must meet the order it left, also under another version of Python."""
    order = [(1, 1), (0, 0), (0, 1), (0, 3), (0, 2)]
    assert epoch_order([4, 3], [1, 0.5], seed=1, epoch=2) == order


@given(sizes_and_weights, st.integers(0, 5))
def test_weights_say_how_often_an_item_is_seen(sources, seed):
    sizes, weights = zip(*sources)
    sizes, weights = [4, *sizes], [1.0, *weights]  # the first keeps every epoch non-empty
    epochs = [epoch_order(sizes, weights, seed, epoch) for epoch in range(4)]
    seen = Counter(chain.from_iterable(epochs))
    for source, (size, weight) in enumerate(zip(sizes, weights)):
        assert {seen[source, index] for index in range(size)} == {int(4 * weight)}
        for order in epochs:
            drawn = sum(1 for place in order if place[0] == source)
            assert abs(drawn - size * weight) <= 1


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch_order([50], [1], seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_weights_that_give_nothing_are_errors():
    with pytest.raises(DataError, match="must be 0 or more"):
        epoch_order([3], [-1], 0, 0)
    with pytest.raises(DataError, match="give none"):
        epoch_order([3, 4], [0, 0], 0, 0)


@given(st.lists(st.integers()), st.integers(1, 10), st.integers())
def test_shuffle_buffer_yields_every_item_once(items, size, seed):
    shuffled = list(shuffle_buffer(items, size, random.Random(seed)))
    assert Counter(shuffled) == Counter(items)
    assert shuffled == list(shuffle_buffer(items, size, random.Random(seed)))


def test_shuffle_buffer_holds_no_more_than_its_size():
    taken = 0

    def count():
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield i

    for out, _ in enumerate(shuffle_buffer(count(), 10, random.Random(0)), 1):
        assert taken - out <= 10


@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 4))
def test_ranks_share_the_global_batches_of_one_process(count, batch_size, world):
    alone = list(rank_batches(range(count), batch_size * world))
    ranks = [list(rank_batches(range(count), batch_size, rank, world)) for rank in range(world)]
    assert len({tuple(map(len, batches)) for batches in ranks}) == 1  # equal counts and sizes
    together = [sorted(chain(*parts)) for parts in zip(*ranks)]
    assert together == [b for b in (whole[: len(whole) // world * world] for whole in alone) if b]


def shown(item: int) -> int:
    if item == 7:
        raise DataError("seven is torn")
    return item * 10


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_dataset_gives_the_same_batches_for_any_number_of_workers(workers):
    sources = [range(10), range(100, 105)]
    batches = list(rank_batches(epoch_order([10, 5], [1, 1], seed=3, epoch=1), 4))
    loader = DataLoader(
        MixedDataset(sources, shown),
        batch_sampler=batches,
        collate_fn=list,
        num_workers=workers,
    )
    report = Report(limit=0.5)
    got = [sift(batch, report) for batch in loader]
    expected = [[sources[s][i] * 10 for s, i in batch if sources[s][i] != 7] for batch in batches]
    assert got == expected
    assert report.good == 14
    assert [broken.reason for broken in report.broken] == ["seven is torn"]


def test_an_error_of_the_code_is_not_taken_for_broken_data():
    with pytest.raises(ZeroDivisionError):
        MixedDataset([[0]], lambda item: 1 // item)[0, 0]


def test_sift_stops_when_too_much_is_broken():
    report = Report(limit=0.1, least=10)
    with pytest.raises(DataError, match="more than the accepted 10%; the first is a: torn"):
        sift([1] * 8 + [Broken("a", "torn"), Broken("b", "torn")], report)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    records = [Record(ImageRef("made", data=PICTURE + bytes([i])), (str(i),)) for i in range(30)]
    return write_shards(records, folder, "train", images_per_shard=5)


def texts(record: Record) -> str:
    load_image(record.image.read())
    return record.texts[0]


def test_stream_is_a_shuffled_function_of_seed_and_epoch(shards):
    def stream(seed, epoch):
        return [r.texts[0] for r in stream_shards([shards], [1], seed, epoch, buffer=8)]

    assert sorted(stream(0, 0), key=int) == [str(i) for i in range(30)]
    assert stream(0, 0) == stream(0, 0)
    assert len({tuple(stream(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_stream_of_several_sources_draws_shards_by_weight(shards):
    records = list(stream_shards([shards[:2], shards[2:]], [2, 0.5], 0, 0, buffer=100))
    seen = Counter(int(record.texts[0]) < 10 for record in records)
    assert seen == {True: 20, False: 10}


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_shard_stream_gives_the_same_batches_for_any_number_of_workers(shards, workers):
    stream = ShardStream([shards], [1], texts, batch_size=4, seed=5, buffer=8)
    stream.seek(epoch=2)
    expected = [r.texts[0] for r in stream_shards([shards], [1], 5, 2, buffer=8)]
    got = list(DataLoader(stream, batch_size=None, num_workers=workers))
    assert got == [expected[i : i + 4] for i in range(0, 30, 4)]


def test_shard_stream_resumes_at_a_batch_and_is_cut_by_rank(shards):
    def batches(batch=0, **cut):
        stream = ShardStream([shards], [1], texts, seed=5, buffer=8, **cut)
        stream.seek(epoch=1, batch=batch)
        return list(stream)

    assert batches(batch=3, batch_size=4) == batches(batch_size=4)[3:]
    alone = batches(batch_size=6)
    ranks = [batches(batch_size=3, rank=rank, world=2) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*ranks)] == [sorted(batch) for batch in alone]


@pytest.mark.parametrize(("workers", "buffer"), [(0, 100), (2, 100), (2, 1), (3, 1)])
def test_broken_rows_and_images_are_named_once_and_stop_nothing(tmp_path, workers, buffer):
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(12):
            data = PICTURE[:60] if i == 3 else PICTURE
            text = b"" if i == 11 else str(i).encode()
            for name, content in ((f"{i}.png", data), (f"{i}.txt", text)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    stream = ShardStream([[path]], [1], texts, batch_size=3, seed=0, buffer=buffer)
    report = Report(limit=0.5)
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    got = list(chain(*(sift(batch, report) for batch in loader)))
    assert sorted(map(int, got)) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert sorted(broken.where.split("/")[-1] for broken in report.broken) == [
        "train-000000.tar, entry 11",
        "train-000000.tar::3.png",
    ]
    assert next(islice(stream, 1))  # the stream can be read again
