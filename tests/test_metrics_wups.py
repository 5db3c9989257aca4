from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from training.evaluation.metrics.wups import PLACES, WordSimilarity

# entity ── animal ── dog ── puppy
#   │          └───── cat, house_cat
#   └── artifact ── furniture ── sofa, couch
INDEX = """\
  1 licence text
animal n 1 1 ~ 1 1 00000002
artifact n 1 1 ~ 1 1 00000003
cat n 1 1 @ 1 1 00000005
couch n 1 1 @ 1 1 00000008
dog n 1 2 @ ~ 1 1 00000004
entity n 1 1 ~ 1 1 00000001
house_cat n 1 1 @ 1 1 00000005
puppy n 1 1 @ 1 1 00000007
sofa n 1 1 @ 1 1 00000008
furniture n 1 2 @ ~ 1 1 00000006
"""
DATA = """\
  1 licence text
00000001 03 n 01 entity 0 000 | root
00000002 03 n 01 animal 0 001 @ 00000001 n 0000 | a
00000003 03 n 01 artifact 0 001 @ 00000001 n 0000 | b
00000004 03 n 01 dog 0 001 @ 00000002 n 0000 | c
00000005 03 n 02 cat 0 house_cat 0 001 @ 00000002 n 0000 | d
00000006 03 n 01 furniture 0 001 @ 00000003 n 0000 | e
00000007 03 n 01 puppy 0 002 @ 00000004 n 0000 #m 00000003 n 0000 | f
00000008 03 n 02 sofa 0 couch 0 001 @ 00000006 n 0000 | g
"""
FILES = {"index.noun": INDEX, "data.noun": DATA, "noun.exc": "kitties cat\n"}

# Similarities that nltk 3.10 gives on WordNet 3.0.
MEASURED_WITH_NLTK = {
    ("chair", "table"): 0.842105,
    ("sofa", "couch"): 1,
    ("garbage_bin", "basket"): 0,
    ("lamp", "light"): 0.888889,
    ("men", "woman"): 0.705882,
    ("bookshelves", "cabinet"): 0.631579,
    ("red", "blue"): 0.875,
    ("washing_machine", "refrigerator"): 0.916667,
    ("chef", "fireman"): 0.571429,
    ("knives", "spoon"): 0.666667,
}


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("dog", "dog", 1),
        ("dog", "cat", 2 * 2 / (3 + 3)),  # their animal is two nodes deep
        ("puppy", "cat", 2 * 2 / (4 + 3)),
        ("puppy", "dog", 2 * 3 / (4 + 3)),
        ("sofa", "couch", 1),
        ("dog", "sofa", 2 * 1 / (3 + 4)),
        ("dogs", "House cat", 2 * 2 / (3 + 3)),
        ("kitties", "cat", 1),
        ("dog", "blue", 0),
        ("blue", "blue", 1),
        ("", "dog", 0),
    ],
)
def test_similarity_on_a_small_tree(
    dictionary: Path, first: str, second: str, expected: float
) -> None:
    similarity = WordSimilarity(dictionary)
    assert similarity(first, second) == pytest.approx(expected)
    assert similarity(second, first) == pytest.approx(expected)


def test_a_zip_file_like_that_of_nltk_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wordnet.zip", "w") as archive:
        for name, text in FILES.items():
            archive.writestr(f"wordnet/{name}", text)
    assert WordSimilarity(tmp_path / "wordnet.zip")("dog", "dogs") == 1


def test_without_wordnet_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="wordnet-base"):
        WordSimilarity(tmp_path)


@pytest.mark.skipif(not any(place.exists() for place in PLACES), reason="WordNet is not installed")
def test_real_wordnet_gives_what_nltk_gives() -> None:
    similarity = WordSimilarity()
    for (first, second), expected in MEASURED_WITH_NLTK.items():
        assert similarity(first, second) == pytest.approx(expected, abs=1e-6)
