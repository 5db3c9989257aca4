from __future__ import annotations

import math
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from training.evaluation.metrics.captions import score_captions
from training.evaluation.metrics.tokenize import ptb_tokenize

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the reference is Java")

REFERENCES = {
    "1.jpg": ["A dog runs on the grass .", "A brown dog is running outside ."],
    "2.jpg": ["Two children play with a red ball .", "Kids kick a ball ."],
    "3.jpg": ["A man rides a bicycle down the road .", "A cyclist on a street ."],
}


def test_perfect_captions_score_full_marks() -> None:
    scores = score_captions({image: texts[0] for image, texts in REFERENCES.items()}, REFERENCES)
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert scores.values[name] == pytest.approx(100)
    assert scores.values["length"] == pytest.approx((6 + 7 + 8) / 3)


def test_captions_without_a_shared_word_score_nothing() -> None:
    scores = score_captions(dict.fromkeys(REFERENCES, "purple elephants sleeping"), REFERENCES)
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr"):
        assert scores.values[name] == pytest.approx(0, abs=1e-3)


def test_distinct_counts_ngrams_of_all_captions() -> None:
    scores = score_captions(dict.fromkeys(REFERENCES, "a dog a dog"), REFERENCES)
    assert scores.values["distinct-1"] == pytest.approx(100 * 2 / 12)
    assert scores.values["distinct-2"] == pytest.approx(100 * 2 / 9)


def test_an_empty_caption_is_scored_not_refused() -> None:
    scores = score_captions({**dict.fromkeys(REFERENCES, "a dog"), "2.jpg": ""}, REFERENCES)
    assert scores.per_image["CIDEr"][1] == 0
    assert all(math.isfinite(value) for value in scores.values.values())


def test_per_image_scores_follow_the_order_of_the_captions() -> None:
    candidates = {"3.jpg": "nothing of it", "1.jpg": "a dog runs on the grass", "2.jpg": "a ball"}
    scores = score_captions(candidates, REFERENCES)
    assert scores.image_ids == ["3.jpg", "1.jpg", "2.jpg"]
    for name in ("CIDEr", "ROUGE-L", "BLEU-4"):
        assert scores.per_image[name].argmax() == 1
    for name in ("CIDEr", "ROUGE-L"):
        assert scores.per_image[name].mean() == pytest.approx(scores.values[name])


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {}, "no captions"),
        ({"1.jpg": "a dog"}, REFERENCES, "'2.jpg'"),
        ({"4.jpg": "a dog"}, {"4.jpg": []}, "'4.jpg'"),
        ({"4.jpg": "a dog"}, {"4.jpg": "a dog"}, "list"),
        ({"4.jpg": "a dog"}, {"4.jpg": ["..."]}, "no words"),
    ],
)
def test_input_that_cannot_be_scored_is_refused(
    candidates: dict, references: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_captions(candidates, references)


def test_meteor_without_java_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="Java"):
        score_captions(dict.fromkeys(REFERENCES, "a dog"), REFERENCES, meteor=True)


def test_corpus_scores_equal_pycocoevalcap_and_print_nothing(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates, references = _held_out_human_captions(data_dir, images=100)
    scores = score_captions(candidates, references)
    assert capsys.readouterr().out == ""
    expected = _pycocoevalcap(
        {image: [_words(text)] for image, text in candidates.items()},
        {image: [_words(text) for text in texts] for image, texts in references.items()},
    )
    for name, value in expected.items():
        assert scores.values[name] == pytest.approx(value, abs=1e-9)


@pytest.mark.slow
@needs_java
def test_scores_are_those_of_pycocoevalcap_with_java(data_dir: Path) -> None:
    candidates, references = _held_out_human_captions(data_dir)
    assert len(candidates) == 1000
    scores = score_captions(candidates, references)
    tokenizer = PTBTokenizer()
    java = _pycocoevalcap(
        tokenizer.tokenize({image: [{"caption": text}] for image, text in candidates.items()}),
        tokenizer.tokenize(
            {image: [{"caption": t} for t in texts] for image, texts in references.items()}
        ),
    )
    for name, value in java.items():
        assert scores.values[name] == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
@needs_java
def test_meteor_of_held_out_human_captions(data_dir: Path) -> None:
    candidates, references = _held_out_human_captions(data_dir, images=50)
    scores = score_captions(candidates, references, meteor=True)
    assert scores.values["METEOR"] == pytest.approx(26.062, abs=1e-3)


def _held_out_human_captions(
    data_dir: Path, images: int | None = None
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The first human caption of each dev image as the hypothesis, the other four as references."""
    folder = data_dir / "flickr8k"
    captions = defaultdict(list)
    for line in (folder / "Flickr8k.token.txt").read_text("utf-8").splitlines():
        name, text = line.split("\t")
        captions[name.split("#")[0]].append(text)
    dev = (folder / "Flickr_8k.devImages.txt").read_text().split()[:images]
    return {image: captions[image][0] for image in dev}, {i: captions[i][1:] for i in dev}


def _words(text: str) -> str:
    return " ".join(ptb_tokenize(text))


def _pycocoevalcap(
    candidates: dict[str, list[str]], references: dict[str, list[str]]
) -> dict[str, float]:
    bleu, _ = Bleu(4).compute_score(references, candidates, verbose=0)
    scores = {f"BLEU-{n}": value for n, value in enumerate(bleu, start=1)}
    scores["ROUGE-L"], _ = Rouge().compute_score(references, candidates)
    scores["CIDEr"], _ = Cider().compute_score(references, candidates)
    return {name: 100 * float(np.mean(value)) for name, value in scores.items()}
