from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from training.evaluation.metrics.tokenize import ptb_tokenize

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the reference is Java")

# What PTBTokenizer of pycocoevalcap 1.2 gives for each text.
MEASURED = {
    "A dog , two cats .": "a dog two cats",
    "The man's dog can't run; it doesn't.": "the man 's dog ca n't run it does n't",
    "She\u2019s on the \u201cT-shirt\u201d": "she 's on the t-shirt",
    "Mr. Smith of the U.S. jumps.": "mr. smith of the u.s. jumps",
    "A boy in group B. and a girl": "a boy in group b. and a girl",
    "a young miss. No. 5 said no.": "a young miss no. 5 said no",
    "I cannot, gonna, 'tis": "i can not gon na 't is",
    "y'all know o'clock and rock 'n' roll": "y' all know o'clock and rock 'n' roll",
    "the girls' ball, 'big' one": "the girls ball big one",
    "a (red) [car] {x}": "a -lrb- red -rrb- -lsb- car -rsb- -lcb- x -rcb-",
    "Wow!! What?! Yes! ... no -- never": "wow !! what ?! yes no never",
    "at 10:30 1,000 men ran 3.5 miles, 2-wheeled": "at 10:30 1,000 men ran 3.5 miles 2-wheeled",
    "black/white AT&T 50% #5 $5": "black/white at&t 50 % # 5 $ 5",
    "on a leash.The cat": "on a leash.the cat",
    "1 1/2 ½": "1\xa01/2 1/2",
    "un café, garbage_bin": "un café garbage_bin",
    "": "",
    " . ": "",
}


@pytest.mark.parametrize(("text", "words"), MEASURED.items())
def test_measured_cases(text: str, words: str) -> None:
    assert ptb_tokenize(text) == (words.split(" ") if words else [])


@given(st.text())
def test_any_text_gives_lower_case_words_without_spaces(text: str) -> None:
    for word in ptb_tokenize(text):
        assert word
        assert " " not in word
        assert word == word.lower()


@given(st.lists(st.sampled_from("a dog runs on green grass with two balls".split()), min_size=1))  # noqa: SIM905
def test_plain_words_come_back_as_they_are(words: list[str]) -> None:
    assert ptb_tokenize(" ".join(words)) == words
    assert ptb_tokenize(" ".join(words).capitalize() + " .") == words


@needs_java
def test_measured_cases_are_still_what_java_gives() -> None:
    assert _java(list(MEASURED)) == list(MEASURED.values())


@pytest.mark.slow
@needs_java
def test_agrees_with_java_on_every_flickr8k_caption(data_dir: Path) -> None:
    lines = (data_dir / "flickr8k" / "Flickr8k.token.txt").read_text("utf-8").splitlines()
    captions = [line.split("\t")[1] for line in lines]
    ours = [" ".join(ptb_tokenize(caption)) for caption in captions]
    agreement = sum(a == b for a, b in zip(ours, _java(captions))) / len(captions)
    assert len(captions) == 40_455
    assert agreement == 1.0


def _java(texts: list[str]) -> list[str]:
    captions = {index: [{"caption": text}] for index, text in enumerate(texts)}
    return [words for [words] in PTBTokenizer().tokenize(captions).values()]
