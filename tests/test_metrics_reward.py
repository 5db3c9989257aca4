from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from training.evaluation.metrics.reward import CiderReward
from training.evaluation.metrics.tokenize import ptb_tokenize

WORDS = ["a", "dog", "red", "ball", "runs", "on", "grass", "the"]
captions = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
references = st.lists(st.lists(captions, min_size=1, max_size=3), min_size=2, max_size=5)


def _pycocoevalcap(references: dict[str, list[str]], candidates: dict[str, str]) -> np.ndarray:
    def words(text: str) -> str:
        return " ".join(ptb_tokenize(text))

    _, scores = Cider().compute_score(
        {image: [words(text) for text in texts] for image, texts in references.items()},
        {image: [words(candidates[image])] for image in references},
    )
    return scores


@given(references, st.data())
def test_equals_pycocoevalcap_on_any_captions(texts: list[list[str]], data: st.DataObject) -> None:
    images = {str(index): captions for index, captions in enumerate(texts)}
    # pycocoevalcap cannot take a corpus without a single word.
    images["0"] = [*images["0"], "a dog"]
    candidates = {image: data.draw(captions) for image in images}
    reward = CiderReward(images)(list(images), list(candidates.values()))
    np.testing.assert_allclose(reward, _pycocoevalcap(images, candidates), atol=1e-6)


def test_equals_pycocoevalcap_on_real_captions(data_dir: Path) -> None:
    images: dict[str, list[str]] = {}
    for line in (data_dir / "flickr8k/Flickr8k.token.txt").read_text("utf-8").splitlines()[:2500]:
        name, text = line.split("\t")
        images.setdefault(name.split("#")[0], []).append(text)
    # Half of the candidates come from the image itself, half from another one.
    order = random.Random(0)
    candidates = {
        image: order.choice(images[image if order.random() < 0.5 else order.choice(list(images))])
        for image in images
    }
    reward = CiderReward(images)(list(images), list(candidates.values()))
    np.testing.assert_allclose(reward, _pycocoevalcap(images, candidates), atol=1e-6)
    assert 0.5 < reward.mean() < 5


def test_a_batch_may_repeat_and_reorder_images() -> None:
    reward = CiderReward({"1": ["a red dog runs"], "2": ["the ball", "a ball on grass"]})
    single = [reward(["2"], ["a ball"])[0], reward(["1"], ["a dog"])[0], reward(["2"], ["the"])[0]]
    batch = reward(["2", "1", "2"], ["a ball", "a dog", "the"])
    assert batch.dtype == np.float64
    np.testing.assert_array_equal(batch, single)


def test_repeating_a_word_does_not_pay() -> None:
    reward = CiderReward({"1": ["a red dog runs on grass"], "2": ["the ball"]})
    good, stuttering = reward(["1", "1"], ["a red dog runs on grass", "dog dog dog dog dog dog"])
    assert good == pytest.approx(10)
    assert stuttering < 2.5


def test_an_unknown_image_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"3\.jpg"):
        CiderReward({"1.jpg": ["a dog"], "2.jpg": ["a ball"]})(["3.jpg"], ["a dog"])


def test_batches_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 image ids"):
        CiderReward({"1": ["a dog"], "2": ["a ball"]})(["1", "2"], ["a dog"])


def test_references_that_can_give_no_reward_are_refused() -> None:
    with pytest.raises(ValueError, match="two images"):
        CiderReward({"1.jpg": ["a dog"]})
    with pytest.raises(ValueError, match=r"'2\.jpg'"):
        CiderReward({"1.jpg": ["a dog"], "2.jpg": []})
