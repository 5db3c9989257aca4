from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vlm
from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.images import ImageError
from vlm.model.config import CalibrationConfig
from vlm.prompts import QuestionError
from vlm.weights.hub import bundled_folder

QUESTIONS = ["is there a dog?", "how many people are there in the park?", "what?"]


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = [(50, 80), (120, 40), (96, 96)]
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_batch_equals_single(tiny, photos):
    together = tiny.caption(photos, beams=3, max_tokens=10)
    for photo, answer in zip(photos, together):
        alone = tiny.encode(photo).caption(beams=3, max_tokens=10)
        assert alone.text == answer.text
        assert alone.score == pytest.approx(answer.score, abs=1e-4)
        for one, other in zip(alone.maps(), answer.maps()):
            torch.testing.assert_close(one.weights, other.weights, atol=1e-5, rtol=1e-4)


def test_questions_together_equal_questions_alone(tiny, photos):
    image = tiny.encode(photos[0])
    together = image.ask_all(QUESTIONS, max_tokens=6)
    for question, answer in zip(QUESTIONS, together):
        alone = image.ask(question, max_tokens=6)
        assert alone.text == answer.text
        assert alone.confidence == pytest.approx(answer.confidence, rel=1e-3)


def test_an_image_is_encoded_once(tiny, photos, monkeypatch):
    calls = []
    encode = tiny.model.vision.forward
    monkeypatch.setattr(tiny.model.vision, "forward", lambda x: calls.append(len(x)) or encode(x))
    image = tiny.encode(photos[0])
    image.caption(beams=3, max_tokens=4)
    image.ask_all(QUESTIONS, max_tokens=4)[0].maps()
    list(image.stream(max_tokens=4))
    assert calls == [1]


@pytest.mark.parametrize("options", [{"beams": 1}, {"beams": 3}, {"beams": 4, "candidates": 4}])
@pytest.mark.parametrize("question", [None, QUESTIONS[0]])
def test_what_is_followed_is_not_taken_back_and_ends_in_the_answer(tiny, photos, options, question):
    for photo in photos:
        image = tiny.encode(photo)
        *going, last = image.follow(question, max_tokens=12, **options)
        shown = [stand.words for stand in going] + [last.answer.words]
        for before, after in pairwise(shown):
            assert after[: len(before)] == before
        write = image.caption if question is None else partial(image.ask, question)
        assert last.answer.text == write(max_tokens=12, **options).text
        assert last.words == last.answer.words


def test_words_are_followed_as_they_come():
    """Not only at the end: with beams, too, words are sure before the search ends, and the leader's are there."""
    image = vlm.load().encode(bundled_folder() / "examples" / "dog.jpg")
    *going, last = image.follow()
    assert any(0 < len(stand.words) < len(last.words) for stand in going)
    assert all(stand.words or stand.tentative for stand in going)


def test_a_search_that_is_let_go_stops(tiny, photos, monkeypatch):
    image, passes = tiny.encode(photos[0]), []
    forward = tiny.model.decoder.forward
    counted = lambda *args, **keys: passes.append(1) or forward(*args, **keys)  # noqa: E731
    monkeypatch.setattr(tiny.model.decoder, "forward", counted)
    going = image.follow(beams=1, min_tokens=20, max_tokens=20)
    next(going)
    before = len(passes)
    going.close()
    assert len(passes) == before < 20


def test_stream_gives_the_words_of_the_greedy_caption(tiny, photos):
    image = tiny.encode(photos[0])
    assert tuple(image.stream(max_tokens=12)) == image.caption(beams=1, max_tokens=12).words
    question = QUESTIONS[0]
    assert tuple(image.stream(question, max_tokens=6)) == (
        image.ask(question, beams=1, max_tokens=6).words
    )


def test_confidence_is_a_probability_and_words_add_up(tiny, photos):
    answer = tiny.encode(photos[0]).ask(QUESTIONS[0], max_tokens=3)
    assert 0 < answer.confidence <= 1
    assert answer.confidence + sum(a.confidence for a in answer.alternatives) <= 1 + 1e-6
    assert answer.text not in [a.text for a in answer.alternatives]


def test_explaining_the_caption_gives_its_own_probability(tiny, photos):
    image = tiny.encode(photos[0])
    text = "a brown dog runs through the grass"
    explained = image.explain(text)
    assert explained.text == text
    assert explained.confidence == pytest.approx(
        math.exp(explained.score * (len(explained.ids) + 1)), rel=1e-3
    )
    caption = image.caption(beams=1, max_tokens=30)
    if caption.text:
        again = image.explain(caption.text)
        assert [m.text for m in again.maps()] == [m.text for m in caption.maps()]


def test_candidates(tiny, photos):
    image = tiny.encode(photos[0])
    beams = image.caption(candidates=5, max_tokens=6)
    sampled = image.caption(sample=True, candidates=5, temperature=2.0, seed=0, max_tokens=6)
    for answer in (beams, sampled):
        texts = [answer.text, *(a.text for a in answer.alternatives)]
        assert len(texts) == len(set(texts)) == 5


def test_answers_come_in_the_order_of_their_confidence(photos):
    for question in (*QUESTIONS, "is it red", "where is the man"):
        for image in vlm.load().encode_all(photos):
            answer = image.ask(question)
            confidences = [answer.confidence, *(a.confidence for a in answer.alternatives)]
            assert confidences == sorted(confidences, reverse=True)


def test_an_answer_says_whether_it_was_cut(tiny, photos):
    image = tiny.encode(photos[0])
    cut = image.caption(beams=1, min_tokens=2, max_tokens=2)
    assert not cut.finished
    assert cut.to_dict()["finished"] is False
    assert image.explain("a dog").finished


def test_an_answer_travels_without_its_image(tiny, photos):
    answer = tiny.encode(photos[0]).ask(QUESTIONS[0])
    there = pickle.loads(pickle.dumps(answer))
    assert there == answer
    assert there.to_dict() == answer.to_dict()
    with pytest.raises(ValueError, match="without its image"):
        there.maps()
    assert copy.deepcopy(answer).maps()
    with pytest.raises(TypeError, match="holds its model"):
        pickle.dumps(answer.image)


def test_a_small_copy_of_the_picture_has_the_same_maps(tiny, photos):
    image = tiny.encode(photos[0])
    small = image.shrunk(40)
    assert max(small.picture.size) == 40
    assert small.frame.box == pytest.approx((0, 0, *small.picture.size))
    text = "a brown dog"
    for one, other in zip(image.explain(text).maps(), small.explain(text).maps()):
        torch.testing.assert_close(one.weights, other.weights)
    assert small.explain(text).overlay("dog", legend=False).size == small.picture.size


def test_samples_that_coincide_count_once(photos):
    image = vlm.load().encode(photos[0])
    answer = image.caption(sample=True, temperature=0.1, candidates=8, seed=0)
    assert len(answer.alternatives) < 7, "some must coincide"
    for text, confidence in (
        (answer.text, answer.confidence),
        *((a.text, a.confidence) for a in answer.alternatives),
    ):
        assert image.explain(text).confidence == pytest.approx(confidence, rel=1e-3)


def test_a_texts_score_is_ranked_like_those_of_its_task(tiny, photos):
    image = tiny.encode(photos[0])
    for question in (None, "what is it"):
        answer = image.explain("dog dog", question)
        assert answer.confidence == pytest.approx(
            math.exp(answer.score * (1 if question else len(answer.ids) + 1)), rel=1e-4
        )


def test_several_candidates_are_not_streamed(tiny, photos):
    with pytest.raises(ValueError, match="candidates=1"):
        next(tiny.encode(photos[0]).stream(sample=True, candidates=2))


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(tiny, photos, question):
    with pytest.raises(QuestionError, match="empty"):
        tiny.encode(photos[0]).ask(question)


def test_a_long_question_is_refused(tiny, photos):
    with pytest.raises(QuestionError, match="too long"):
        tiny.encode(photos[0]).ask("why " * 2500)


def test_a_word_that_is_not_there(tiny, photos):
    with pytest.raises(ValueError, match="zebra"):
        tiny.encode(photos[0]).explain("a dog").overlay("zebra")


def test_import_is_light():
    """`import vlm` must not load torch: a script that only asks for help waits for nothing."""
    code = "import sys, vlm; print('torch' in sys.modules, 'gradio' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "False"]


def test_every_public_name_exists():
    for name in vlm.__all__:
        assert getattr(vlm, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = vlm.nothing


def test_what_is_no_list_of_questions_or_images_is_said(tiny, photos):
    image = tiny.encode(photos[0])
    for asked in ([None], [5], ["what?", b"what?"]):
        with pytest.raises(QuestionError, match="must be a text"):
            image.ask_all(asked)
    with pytest.raises(QuestionError, match="list of questions"):
        image.ask_all("what?")
    assert len(image.ask_all(iter(["what?", "how many?"]), max_tokens=3)) == 2
    with pytest.raises(QuestionError, match="must be a text"):
        image.ask(None)
    for source in ("photo.jpg", b"", Path("photo.jpg"), Image.new("RGB", (8, 8))):
        with pytest.raises(ImageError, match="list of images"):
            tiny.caption(source)
    assert tiny.encode_all([]) == []
    assert len(tiny.caption(iter(photos), beams=1, max_tokens=3)) == len(photos)
    with pytest.raises(ValueError, match="no word 99"):
        image.explain("a dog").overlay(99)


def test_no_questions_have_no_answers(tiny, photos):
    assert tiny.encode(photos[0]).ask_all([]) == []


@pytest.fixture
def calibrated(tiny):
    """`tiny`, with temperatures of answers and of captions."""
    model = copy.copy(tiny.model)
    model.config = replace(model.config, calibration=CalibrationConfig(answers=3.0, captions=0.5))
    return Captioner(model, tiny.tokenizer)


def test_a_calibrated_model_says_the_same_less_or_more_surely(tiny, calibrated, photos):
    own, told = tiny.encode(photos[0]), calibrated.encode(photos[0])
    caption, surer = own.caption(), told.caption()
    assert (caption.text, caption.score) == (surer.text, pytest.approx(surer.score))
    assert caption.confidence < surer.confidence
    greedy = {"beams": 1}
    answer, unsure = own.ask(QUESTIONS[0], **greedy), told.ask(QUESTIONS[0], **greedy)
    assert answer.text == unsure.text
    assert answer.confidence > unsure.confidence


def test_a_text_is_as_sure_typed_in_as_said_and_streamed(calibrated, photos):
    image = calibrated.encode(photos[0])
    for question, said in (
        (None, image.caption()),
        (QUESTIONS[0], image.ask(QUESTIONS[0], beams=1)),
    ):
        typed = image.explain(said.text, question)
        if said.finished and typed.ids == said.ids:
            assert typed.confidence == pytest.approx(said.confidence, rel=1e-3)
        *_, last = image.follow(question, beams=3 if question is None else 1)
        assert last.answer.confidence == pytest.approx(said.confidence, rel=1e-3)
        words = [word.logprob for word in said.words]
        assert [w.logprob for w in last.answer.words] == pytest.approx(words, abs=1e-4)


def test_answers_in_one_engine_are_calibrated_as_alone(calibrated, photos):
    image = calibrated.encode(photos[0])
    with Engine(calibrated) as engine:
        asked = engine.ask("me", image, QUESTIONS[0]).result()
        caption = engine.caption("me", image).result()
    assert asked.confidence == pytest.approx(image.ask(QUESTIONS[0]).confidence, rel=1e-3)
    assert caption.confidence == pytest.approx(image.caption().confidence, rel=1e-3)
