"""Things that are named by their kind: found in a question, named as the photo shows them, and left alone elsewhere."""

from __future__ import annotations

import pytest

import vlm
from vlm import kinds
from vlm.captioner import Captioner
from vlm.documents.passages import Passage
from vlm.engine import Engine
from vlm.options import ANSWER
from vlm.weights.hub import bundled_folder

EXAMPLES = bundled_folder() / "examples"

DOCUMENTS = ["The dog is called Brolka.", "The cat is called Tifu.", "The horse is called Murn."]


@pytest.fixture(scope="module")
def small() -> Captioner:
    return vlm.load()


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("What is the animal called?", "What is the dog called?"),
        ("Whose pet is this?", "Whose dog is this?"),
        ("What does the Animal in the photo weigh?", "What does the dog weigh?"),
        ("what is this animal's name", "what is this dog's name"),
        (
            "How old is the animal in this picture and who owns it",
            "How old is the dog and who owns it",
        ),
    ],
)
def test_a_thing_that_is_named_by_its_kind_gets_a_name(question, named):
    assert kinds.kind_in(question) in ("animal", "pet")
    assert kinds.with_name(question, "dog") == named
    assert kinds.kind_in(named) is None


@pytest.mark.parametrize(
    "question",
    [
        "What animal is in the picture?",
        "Which animal is this?",
        "What kind of vehicle is this?",
        "Is there an animal?",
        "What is the food called?",
        "In which room is the dog?",
        "Who is the animal of the year?",
        "What is the dog called?",
        "How many animals are there?",
        "Who is the personal trainer?",
        "",
    ],
)
def test_a_question_that_asks_for_the_thing_or_names_it_stays(question):
    assert kinds.kind_in(question) is None
    assert kinds.with_name(question, "dog") == question


def test_which_of_its_kind_it_is_the_photo_says_and_documents_choose_among_likely_ones():
    likely = [("Kayak", 0.3), ("boat", 0.4), ("train", 0.01), ("vehicle", 0.2)]

    def choose(kind, likely, text):
        return kinds.choose(kind, likely, [Passage(text, "notes", None, 0, len(text))])

    assert choose("vehicle", likely, "A bus.") == "boat"
    assert choose("vehicle", likely, "The kayak costs 3 euros.") == "kayak"
    assert choose("vehicle", likely, "The train costs 3 euros.") == "boat"
    assert choose("vehicle", likely, "The kayaks cost 3 euros.") == "boat"
    assert (
        choose("person", [("cow", 0.4), ("young woman", 0.1), ("man", 0.05)], "") == "young woman"
    )
    assert choose("animal", [("none", 0.9), ("animal", 0.1)], "") is None


@pytest.mark.parametrize(
    ("photo", "thing", "name"),
    [("dog", "dog", "Brolka"), ("kitten", "cat", "Tifu"), ("horses", "horse", "Murn")],
)
def test_the_animal_is_the_one_in_the_photo(small, photo, thing, name):
    image = small.encode(EXAMPLES / f"{photo}.jpg")
    answer = image.ask("What is the animal called?", DOCUMENTS)
    assert answer.question == f"What is the {thing} called?"
    assert answer.text == name
    assert answer.citation == f"stands in document {['dog', 'cat', 'horse'].index(thing) + 1}"
    asked = image.beside(DOCUMENTS)
    *_, last = asked.follow("What is the animal called?", beams=ANSWER.beams)
    assert last.answer.question == answer.question
    with Engine(small) as engine:
        assert engine.ask("me", asked, "What is the animal called?").result().text == name


def test_a_question_stays_without_documents_without_a_photo_and_where_they_say_animal(small):
    question = "What is the animal called?"
    image = small.encode(EXAMPLES / "dog.jpg")
    assert image.read_as(question) == question
    assert image.beside(["The animal is called Brolka."]).read_as(question) == question
    assert small.without_photo.beside(DOCUMENTS).read_as(question) == question
