"""Captions of similar photos: what comes back, and for which photo."""

from __future__ import annotations

import numpy as np
import pytest
from hashed import HashedWords

from vlm.documents.document_files import DocumentError
from vlm.documents.index import Index
from vlm.documents.photo_pairs import PhotoPairs

SEA, DOG, CITY = np.eye(3)


@pytest.fixture
def pairs(tmp_path):
    with PhotoPairs.open(tmp_path / "pairs.db", SEA, create=True) as pairs:
        pairs.add("sea.jpg", SEA, "Ida at the sea in Rovik")
        pairs.add("dog.jpg", DOG * 7, "our dog Bolt")
        yield pairs


def test_the_most_similar_photo_s_caption_comes_first(pairs):
    first, second = pairs.similar(SEA + 0.3 * DOG, 5)
    assert (first.passage.text, first.passage.source) == ("Ida at the sea in Rovik", "sea.jpg")
    assert second.passage.text == "our dog Bolt"
    assert first.score == pytest.approx(1 / np.sqrt(1.09), abs=1e-5)
    assert [s.passage.source for s in pairs.similar(DOG, 1)] == ["dog.jpg"]


def test_pairs_are_kept_added_and_forgotten(pairs, tmp_path):
    pairs.add("city.jpg", CITY, "Rovik by night")
    pairs.add("city.jpg", CITY, "Rovik by night")
    assert len(pairs) == 3
    pairs.close()
    with PhotoPairs.open(tmp_path / "pairs.db", SEA + 0.001) as again:
        assert again.similar(CITY, 1)[0].passage.text == "Rovik by night"
        assert again.delete("city.jpg") == 1
        assert again.delete("city.jpg") == 0
        assert len(again) == 2


@pytest.mark.parametrize(
    ("vector", "caption"),
    [(SEA, " "), (SEA * 0, "a"), (SEA * np.nan, "a"), (np.ones(4), "a"), (np.eye(3), "a")],
)
def test_what_cannot_be_kept_is_told(pairs, vector, caption):
    with pytest.raises(DocumentError):
        pairs.add("x.jpg", vector, caption)
    assert len(pairs) == 2


def test_another_encoder_or_file_is_told(pairs, tmp_path):
    for other in (CITY, np.ones(4)):
        with pytest.raises(DocumentError, match="vectors of another model"):
            PhotoPairs.open(tmp_path / "pairs.db", other)
    Index.open(tmp_path / "index.db", HashedWords()).close()
    with pytest.raises(DocumentError, match="no pairs"):
        PhotoPairs.open(tmp_path / "index.db", SEA)
    (tmp_path / "text").write_text("hello " * 1000)
    with pytest.raises(DocumentError, match="no index"):
        PhotoPairs.open(tmp_path / "text", SEA)
