from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from training.data.readers import read
from training.data.records import ImageRef, Record
from training.data.synthetic import find_mentions, questions_from_captions

OTHERS = [  # so that no question has one answer only
    ["A white cat is sitting .", "The white cat sits ."],
    ["Three dogs are walking .", "Three dogs walk ."],
    ["A brown dog is sleeping .", "The brown dog sleeps ."],
    ["A man is riding a horse .", "A man rides a brown horse ."],
]


def record(*captions: str, id: str = "1") -> Record:
    return Record(ImageRef("x", data=id.encode()), captions, id=id, source="mine")


def ask(*captions: str, others: list[list[str]] = OTHERS) -> dict[str, tuple[str, ...]]:
    """The open-ended questions about an image with these captions, with their answers."""
    records = [record(*captions)]
    records += [record(*texts, id=f"other {i}") for i, texts in enumerate(others)]
    asked = questions_from_captions(records)
    mine = [r for r in asked if r.id.split("#")[0] == "1" and r.kind != "yes/no"]
    return {r.question: r.texts for r in mine}


def mention(caption: str, name: str):
    return next((m for m in find_mentions(caption.lower().split()) if m.name == name), None)


@pytest.mark.parametrize(
    ("caption", "name", "colour", "number"),
    [
        ("a small brown dog runs", "dog", "brown", "1"),
        ("the black and white dog runs", "dog", "black and white", None),
        ("a man and black dog run", "dog", "black", None),
        ("two grey puppies run", "dog", "gray", "2"),
        ("a red white and blue ball", "ball", None, "1"),
        ("a man on his bike", "bicycle", None, None),
    ],
)
def test_a_mention_has_the_colour_and_number_before_it(caption, name, colour, number):
    found = mention(caption, name)
    assert (found.colour, found.number) == (colour, number)


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("a cat with a dog toy", "dog"),
        ("a baseball bat player", "bat"),
        ("a statue of a horse", "horse"),
        ("a field without a dog", "dog"),
        ("he sticks his tongue out", "stick"),
        ("a girl holds a teddy bear", "bear"),
    ],
)
def test_a_name_that_is_not_the_thing_is_no_mention(caption, name):
    assert mention(caption, name) is None


def test_colour_needs_two_captions_that_agree():
    question = "What color is the dog?"
    assert ask("A black dog .", "The black dog .", "A dog .")[question] == ("black", "black")
    assert question not in ask("A black dog .", "A dog .", "One dog .")
    assert question not in ask("A black dog .", "A brown dog .")
    assert question not in ask("A black dog and a brown dog .", "A black dog and another dog .")
    assert question not in ask("Two black dogs .", "Two black dogs .")


def test_colour_is_not_asked_of_people():
    assert not ask("A white woman .", "A white woman .", "A black man .", "A black man .")


def test_actions_and_their_objects():
    asked = ask(
        "A boy is riding a red bike .",
        "The boy rides his bicycle .",
        "A dog that is running .",
        "The dog runs by .",
        others=[*OTHERS, ["A boy is riding a horse .", "A boy rides a horse ."]],
    )
    assert asked["What is the boy riding?"] == ("bicycle", "bicycle")
    assert asked["What is the dog doing?"] == ("running", "running")
    plural = [["Two dogs are sleeping .", "Dogs sleep ."]]
    asked = ask("Two dogs are running .", "Dogs run .", others=plural)
    assert asked["What are the dogs doing?"] == ("running", "running")


def test_the_only_animal_is_asked_for():
    question = "What animal is in the picture?"
    assert ask("A cat .", "A kitten sleeps .")[question] == ("cat", "cat")
    assert question not in ask("A cat and a dog .", "A cat and a dog .")


def test_counts_must_not_be_contradicted():
    question = "How many dogs are there?"
    assert ask("Two dogs .", "Two puppies run .", "Grass .")[question] == ("2", "2")
    assert question not in ask("Two dogs .", "Two dogs .", "A dog .")
    assert question not in ask("Two dogs .", "Two dogs .", "Dogs .")
    assert question not in ask("A dog and a dog .", "A dog .", "A dog .")
    assert "How many shirts are there?" not in ask("Two shirts .", "Two shirts .")


def test_a_favourite_answer_is_cut_to_the_others():
    records = [record("A dog .", "The dog .", id=f"dog {i}") for i in range(10)]
    records += [record("A cat .", "The cat .", id=f"cat {i}") for i in range(3)]
    asked = questions_from_captions(records)
    answers = Counter(r.texts[0] for r in asked if r.question == "What animal is in the picture?")
    assert answers == {"dog": 3, "cat": 3}


def test_no_is_asked_only_where_no_caption_leaves_the_object_open():
    records = [
        record("A dog runs .", "The dog runs .", id="dog"),
        record("An animal runs .", "It runs fast .", id="open"),
        record("A husky runs .", "It runs fast .", id="breed"),
        record("A red car .", "The red car is parked .", id="car"),
    ]
    asked = [r for r in questions_from_captions(records) if r.id.endswith("-dog")]
    assert {r.id.split("#")[0]: r.texts[0] for r in asked} == {"dog": "yes", "car": "no"}


def test_records_are_marked_and_questions_passed_over():
    question = Record(ImageRef("x", data=b""), ("red",), question="What colour is it?")
    asked = questions_from_captions([question, *(record(*c, id=c[0]) for c in OTHERS)])
    assert asked
    assert all(r.synthetic and r.source == "mine/synthetic" for r in asked)
    assert all(r.image.data for r in asked)  # none is about the question's image


def test_flickr8k_questions_are_balanced_and_a_function_of_the_seed(data_dir):
    records = list(read(data_dir / "flickr8k", split="dev"))
    asked = questions_from_captions(records, seed=1)
    assert asked == questions_from_captions(records, seed=1)
    assert asked != questions_from_captions(records, seed=2)
    assert len({(r.id, r.texts) for r in asked}) == len(asked)
    assert set(Counter(r.kind for r in asked)) == {"yes/no", "count", "colour", "action", "object"}

    by_object = defaultdict(Counter)
    captions = {r.id: " ".join(r.texts).lower() for r in records}
    for r in asked:
        if r.kind == "yes/no":
            image, name = r.id.split("#yes/no-")
            by_object[name][r.texts[0]] += 1
            if r.texts == ("no",):
                assert f" {name} " not in f" {captions[image]} "
    assert len(by_object) > 50
    assert all(answers["yes"] == answers["no"] for answers in by_object.values())
