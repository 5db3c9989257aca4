from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.layout import find_file, held_out, pick_split, split_file
from training.data.records import DataError


@given(st.sets(st.text(min_size=1), max_size=60))
def test_held_out_splits_are_a_partition_of_the_names(names):
    parts = [held_out(names, split, "here") for split in ("train", "dev", "test")]
    assert sorted(chain(*parts)) == sorted(names) == held_out(names, "all", "here")
    assert len(parts[2]) == len(names) // 10


@given(st.permutations([f"{i}.jpg" for i in range(25)]))
def test_held_out_does_not_depend_on_the_order_of_the_names(names):
    assert held_out(names, "test", "here") == ["17.jpg", "4.jpg"]


def test_pick_split_knows_the_names_of_dev():
    assert pick_split("dev", ["train", "validation"], "here") == "validation"
    assert pick_split("val", ["train", "dev", "val"], "here") == "val"
    with pytest.raises(DataError, match="here has no split 'dev'; it has train"):
        pick_split("dev", ["train"], "here")
    with pytest.raises(DataError, match="it has none"):
        pick_split("dev", [], "here")


def test_of_several_files_of_a_kind_none_is_chosen_in_silence(tmp_path):
    for name in (
        "dataset_coco.json",
        "dataset_flickr8k.json",
        "a_train2014.json",
        "a_train2017.json",
    ):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"dataset_coco.json, dataset_flickr8k.json; name the one"):
        find_file(tmp_path, ["dataset_*.json"])
    with pytest.raises(DataError, match=r"a_train2014.json, a_train2017.json; name the one"):
        split_file(tmp_path, [], r"a_([a-z]+)\d+\.json", "train")
    assert find_file(tmp_path / "dataset_coco.json", []) == tmp_path / "dataset_coco.json"
