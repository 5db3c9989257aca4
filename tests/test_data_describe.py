from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data.describe import find_overlaps, plot_summaries, quantile, summarise
from training.data.readers import read
from training.data.records import ImageRef, Record

FIXTURES = Path(__file__).parent / "fixtures"


def test_summary_counts_what_was_planted():
    red = ImageRef("a", data=b"a")
    records = [
        Record(red, ("A red square.", "It's red!")),
        Record(red, ("red", "red", "dark red"), question="What colour is it?", kind="other"),
        Record(ImageRef("b", data=b"b"), ("no",), question="Is it red?", synthetic=True),
    ]
    summary = summarise(records)
    assert (summary.records, summary.synthetic, summary.texts) == (3, 1, 6)
    assert len(summary.images) == 2
    assert summary.kinds == {"caption": 1, "other": 1, "question": 1}
    assert summary.answers == {"red": 2, "dark red": 1, "no": 1}
    assert summary.text_lengths == {1: 3, 2: 2, 3: 1}
    assert summary.question_lengths == {3: 1, 4: 1}
    assert summary.words["red"] == 6
    assert summary.words["it's"] == 1


@given(st.lists(st.integers(0, 30), min_size=1), st.floats(0.01, 1))
def test_quantile_is_the_smallest_value_that_covers_the_share(values, share):
    found = quantile(Counter(values), share)
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_overlaps_find_equal_bytes_under_other_names(tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.png").write_bytes(b"the same picture")
    (tmp_path / "test.png").write_bytes(b"another picture")
    splits = {
        name: summarise([Record(ImageRef(str(tmp_path / f"{name}.png")), (text,))])
        for name, text in (("train", "a dog"), ("dev", "a cat"), ("test", "a dog"))
    }
    shared = {(o.first, o.second): (len(o.images), o.captions) for o in find_overlaps(splits)}
    assert shared == {("train", "dev"): (1, 0), ("train", "test"): (0, 1), ("dev", "test"): (0, 0)}


def test_plot_is_a_picture(tmp_path):
    splits = {
        split: summarise(read(FIXTURES / "vqa_v2", split=split)) for split in ("train", "val")
    }
    plot_summaries(splits, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 600
        assert len(plot.convert("RGB").getcolors(1 << 20)) > 10  # not blank


def test_public_splits_share_no_image(data_dir):
    for source, names in (("flickr8k", ("train", "dev", "test")), ("vqa_v2", ("train", "val"))):
        splits = {name: summarise(read(data_dir / source, split=name)) for name in names}
        assert all(not overlap.images for overlap in find_overlaps(splits)), source
