from __future__ import annotations

import pytest

from training.evaluation.metrics.hallucination import hallucination
from training.evaluation.metrics.objects import COCO, EVERYDAY, NO_OBJECT, OBJECT_NAMES


def named(caption: str) -> list[str]:
    return hallucination([caption], [[]], OBJECT_NAMES).named[0]


def invented(caption: str, *references: str) -> list[str]:
    return hallucination([caption], [references], OBJECT_NAMES).invented[0]


def test_rates_over_captions_and_over_objects_named() -> None:
    captions = [
        "A puppy and a cat sit by a man .",  # the cat is invented
        "A dog beside a dog .",
        "Nothing known here .",
    ]
    references = [["A dog with its owner .", "a dog and a person"], ["dogs"], ["a quiet place"]]
    result = hallucination(captions, references, OBJECT_NAMES)
    assert result.invented == [["cat"], [], []]
    assert result.metrics["CHAIR-i"].value == pytest.approx(100 * 1 / 5)
    assert result.metrics["CHAIR-s"].value == pytest.approx(100 * 1 / 3)


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("a hot dog", ["hot dog"]),
        ("two hot dogs and a dog", ["hot dog", "dog"]),
        ("puppies on buses with horses", ["puppy", "bus", "horse"]),
        ("Fire hydrants, men.", ["fire hydrant", "men"]),
        ("a dogged catalogue", []),
        ("an orange shirt, a ski slope and a remote place", []),
        ("a couple of dogs", ["dog"]),
        ("a baby elephant by a baby", ["baby elephant", "baby"]),
        ("a batter at home plate", ["batter"]),
        ("glasses of water", []),
        ("a wine glass and two wine glasses", ["wine glass", "wine glass"]),
        ("", []),
    ],
)
def test_objects_are_found_by_longest_phrase_and_in_the_plural(
    caption: str, names: list[str]
) -> None:
    assert named(caption) == names


@pytest.mark.parametrize(
    ("caption", "reference", "false"),
    [
        ("a puppy", "a black dog", []),
        ("a lady on a sofa", "people on a couch", []),
        ("a man on a bike", "a motorcycle and its rider", []),
        ("a motorcycle", "a man on a bike", []),
        ("a bike", "a bench", ["bike"]),
        ("an animal", "a zebra", []),
        ("a zebra", "a giraffe", ["zebra"]),
        ("a baby elephant", "an elephant", []),
        ("oranges in a bowl", "a bowl of fruit", []),
    ],
)
def test_what_names_the_same_thing_or_leaves_it_open_is_true(
    caption: str, reference: str, false: list[str]
) -> None:
    assert invented(caption, "a picture", reference) == false


def test_captions_that_name_nothing_invent_nothing() -> None:
    result = hallucination(["a quiet place"], [["a dog"]], OBJECT_NAMES)
    assert result.metrics["CHAIR-s"].value == 0
    assert "CHAIR-i" not in result.metrics


def test_the_table_names_each_object_once() -> None:
    assert len(COCO) == 80
    assert not COCO.keys() & EVERYDAY.keys()
    names = [
        " ".join(name.split())
        for others in (*COCO.values(), *EVERYDAY.values(), NO_OBJECT)
        for name in others.split(",")
        if name.strip()
    ]
    names += [*COCO, *EVERYDAY]
    assert sorted({name for name in names if names.count(name) > 1}) == []
    assert all(set(objects) <= COCO.keys() | EVERYDAY.keys() for objects in OBJECT_NAMES.values())
