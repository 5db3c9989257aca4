from __future__ import annotations

import pytest

from vlm.follow_ups import Turn, follow_up

DOG = Turn("what color is the dog?", "brown")
ANIMAL = Turn("What animal is in the picture?", "cow")


@pytest.mark.parametrize(
    ("turns", "question", "asked"),
    [
        ([DOG], "what is it called?", "what is the dog called?"),
        ([DOG], "what is its name?", "what is the dog's name?"),
        ([DOG], "Who owns it?", "Who owns the dog?"),
        ([DOG], "It comes from where?", "The dog comes from where?"),
        ([DOG], "what is that?", "what is the dog?"),
        ([ANIMAL], "how heavy is it?", "how heavy is the cow?"),
        ([ANIMAL, Turn("is it old?", "no")], "what is it called?", "what is the cow called?"),
        ([ANIMAL, DOG], "what is it called?", "what is the dog called?"),
        (
            [Turn("who is on the left?", "a young woman")],
            "what is she doing?",
            "what is she doing?",
        ),
        ([Turn("what is on the table?", "a cup")], "what color is it?", "what color is the table?"),
        ([Turn("where is the man in the red hat?", "street")], "is he old?", "is the man old?"),
        ([DOG], "is the man holding his hat?", "is the man holding his hat?"),
        # What stands by itself stays.
        ([DOG], "what is that cat called?", "what is that cat called?"),
        ([DOG], "is it raining?", "is it raining?"),
        ([DOG], "what color is the cat?", "what color is the cat?"),
        ([], "what is it called?", "what is it called?"),
        ([Turn("is it sunny?", "yes")], "what is it called?", "what is it called?"),
        ([Turn("How many people are there?", "3")], "what are they doing?", "what are they doing?"),
    ],
)
def test_pronouns_are_put_into_words(turns, question, asked):
    assert follow_up(question, turns) == asked
