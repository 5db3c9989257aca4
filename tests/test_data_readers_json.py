from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data.readers import read
from training.data.records import DataError

FIXTURES = Path(__file__).parent / "fixtures"


def test_blip_gathers_the_captions_of_an_image():
    records = list(read(FIXTURES / "blip" / "coco_karpathy_train.json"))
    assert [record.id for record in records] == ["coco_42", "coco_73"]
    assert records[0].texts == ("A red square.", "A square that is red.")
    assert records[0].image.read()
    (test,) = read(FIXTURES / "blip" / "coco_karpathy_test.json")
    assert test.texts == ("A green square.", "Something green.")


def test_blip_reads_questions_of_vqa_and_visual_genome():
    vqa, genome = read(FIXTURES / "blip" / "vqa_train.json")
    assert vqa.question == "What colour is it?"
    assert vqa.texts == ("red",) * 9 + ("dark red",)
    assert vqa.id == "42000"
    assert genome.texts == ("square",)


def test_llava_makes_a_record_of_each_reply_and_drops_the_image_mark():
    records = list(read(FIXTURES / "llava" / "train.json", split="all"))
    assert [record.id for record in records] == ["a1#0", "a1#1", "a2"]
    assert records[0].question == "What is on the table?"
    assert records[1].texts == ("No, only the square.",)
    assert records[2].question == "Describe the picture."
    assert records[0].image == records[1].image
    assert records[0].image.read()


def test_llava_conversation_out_of_turn_is_broken(tmp_path):
    turns = [{"from": "gpt", "value": "Hello."}, {"from": "human", "value": "Hello?"}]
    rows = [{"id": "x", "image": "x.jpg", "conversations": turns}]
    (tmp_path / "chat.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="do not alternate"):
        list(read(tmp_path / "chat.json", "llava", "all"))


def test_a_file_that_is_no_list_is_an_error(tmp_path):
    (tmp_path / "chat.json").write_text("{}")
    with pytest.raises(DataError, match="must hold a list"):
        list(read(tmp_path / "chat.json", "llava", "all"))


def test_llava_turn_that_is_the_image_alone_asks_for_a_caption(tmp_path):
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A red square."}]
    (tmp_path / "chat.json").write_text(
        json.dumps([{"id": 7, "image": "x.jpg", "conversations": turns}])
    )
    (record,) = read(tmp_path / "chat.json", "llava", "all")
    assert (record.question, record.texts, record.id) == (None, ("A red square.",), "7")
