from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import vlm
from training.data.unlike_photos import drawn, kinds_of
from training.evaluation.trust import (
    Choice,
    answer_temperature,
    caption_temperature,
    photo_discriminant,
    photo_threshold,
    thresholds,
)
from training.evaluation.trust_report import store
from vlm.answers import answer_line, with_verdict
from vlm.model.config import CalibrationConfig, ConfigError, VerdictConfig


def planted(temperature: float, count: int = 4000) -> list[Choice]:
    """Answers of one token that are right as often as their logits, divided by the temperature, say."""
    random = torch.Generator().manual_seed(0)
    logits = 3 * temperature * torch.randn(count, 1, 5, generator=random)
    tokens = logits[:, 0].argmax(dim=-1, keepdim=True)
    sure = (logits / temperature).softmax(dim=-1).gather(2, tokens[..., None])[:, 0, 0]
    right = (torch.rand(count, generator=random) < sure).float().tolist()
    return [Choice(*row) for row in zip(logits, tokens, right, strict=True)]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_a_planted_temperature_of_answers_is_found(temperature):
    assert answer_temperature(planted(temperature)) == pytest.approx(temperature, rel=0.08)


def test_the_temperature_of_captions_makes_drawn_words_likeliest():
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3000, 6, generator=random)
    words = (logits / 1.5).softmax(dim=-1).multinomial(1, generator=random)[:, 0]
    assert caption_temperature([Choice(logits, words, 1.0)]) == pytest.approx(1.5, rel=0.08)


def test_thresholds_keep_what_they_promise():
    random = np.random.default_rng(0)
    sureness = random.random(5000)
    right = (random.random(5000) < sureness).astype(float)
    sure, guess = thresholds(sureness, right, 0.75, 0.25)
    assert right[sureness >= sure].mean() >= 0.75
    assert right[sureness < guess].mean() <= 0.26
    assert sure == pytest.approx(0.5, abs=0.05)
    assert guess == pytest.approx(0.5, abs=0.05)
    assert guess <= sure


def test_where_nothing_is_good_enough_nothing_is_sure():
    sureness = np.linspace(0.1, 1, 50)
    sure, guess = thresholds(sureness, np.zeros(50), 0.75, 0.25)
    assert sure > 1
    assert guess == pytest.approx(1.0)
    sure, guess = thresholds(sureness, np.ones(50), 0.75, 0.25)
    assert sure == pytest.approx(0.1)
    assert guess == 0


def test_the_discriminant_tells_planted_kinds_apart():
    random = np.random.default_rng(0)
    photos = random.normal(size=(400, 8)) * [5, 1, 1, 1, 1, 1, 1, 1]
    others = random.normal(size=(200, 8)) * [5, 1, 1, 1, 1, 1, 1, 1] + [0, 0, 6, 0, 0, 0, 0, 0]
    weight = photo_discriminant(photos, others)
    least = photo_threshold(photos @ weight, others @ weight)
    assert (photos @ weight >= least).mean() >= 0.94
    assert (others @ weight >= least).mean() <= 0.03


@pytest.fixture
def fitted(tiny_checkpoint, tmp_path):
    """A copy of the tiny checkpoint with a fit of a planted direction; about nothing it is a guess by likeness."""

    def make(**limits: float) -> vlm.Captioner:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(tiny_checkpoint, folder)
        chosen = {"photo": -1e6, "sure_answer": 2.0, "guess_answer": 0.0} | limits
        chosen = {"sure_caption": 2.0, "guess_caption": 0.0} | chosen
        store(folder, CalibrationConfig(1.5, 0.8), VerdictConfig(**chosen), torch.ones(32))
        return vlm.load(folder)

    return make


@pytest.mark.parametrize(
    ("limits", "answer", "caption"),
    [
        ({}, "unsure", "unsure"),
        ({"photo": 1e6}, "guess", "guess"),
        ({"sure_answer": 0.0}, "sure", "unsure"),
        ({"sure_caption": 0.0}, "unsure", "sure"),
        ({"guess_answer": 1.5, "guess_caption": 1.5}, "guess", "guess"),
        ({"photo": 1e6, "sure_answer": 0.0, "sure_caption": 0.0}, "guess", "guess"),
    ],
)
def test_a_stored_fit_gives_verdicts(fitted, limits, answer, caption):
    captioner = fitted(**limits)
    assert captioner.calibration(True) == 1.5
    image = captioner.encode(Image.new("RGB", (60, 60), "red"))
    answered, said = image.ask("what is it?", max_tokens=3), image.caption(max_tokens=3)
    assert (answered.verdict, said.verdict) == (answer, caption)
    assert answered.to_dict()["verdict"] == answer
    assert said.to_dict()["verdict"] == caption
    assert ("a guess" in answer_line(answered, True)) == (answer == "guess")
    assert ("not sure" in with_verdict(said.text, said)) == (caption == "unsure")


def test_answers_beside_documents_have_limits_of_their_own(trusted_checkpoint, tmp_path):
    shutil.copytree(trusted_checkpoint, tmp_path / "model")

    def verdicts(**limits: float) -> list[str]:
        chosen = VerdictConfig(-1e6, 2.0, 0.0, 2.0, 0.0, **limits)
        store(tmp_path / "model", CalibrationConfig(), chosen, torch.ones(32))
        image = vlm.load(tmp_path / "model").encode(Image.new("RGB", (60, 60), "red"))
        documents = ([], ["a dog runs"])
        return [image.ask("what is it?", texts, max_tokens=3).verdict for texts in documents]

    assert verdicts() == ["unsure", "unsure"]
    assert verdicts(sure_documents=0.0, guess_documents=0.0) == ["unsure", "sure"]
    assert verdicts(sure_documents=2.0, guess_documents=2.0) == ["unsure", "guess"]
    with pytest.raises(ConfigError, match="fitted together"):
        verdicts(sure_documents=1.0)
    with pytest.raises(ConfigError, match="guess_documents"):
        verdicts(sure_documents=0.1, guess_documents=0.2)


def test_a_checkpoint_without_a_fit_has_no_verdict(tiny):
    answer = tiny.encode(Image.new("RGB", (60, 60))).ask("what is it?", max_tokens=3)
    assert answer.verdict is None
    assert answer.to_dict()["verdict"] is None
    assert with_verdict("a dog", answer) == "a dog"


def test_a_fit_replaces_another(fitted, tmp_path):
    fitted()
    (folder,) = tmp_path.iterdir()
    store(folder, CalibrationConfig(), VerdictConfig(0, 1, 0.5, 1, 0.5), torch.zeros(32))
    model = vlm.load(folder).model
    assert model.config.calibration == CalibrationConfig()
    assert model.likeness is not None
    assert not model.likeness.weight.any()


def test_drawings_are_the_same_each_time_and_of_every_kind_differ(tmp_path):
    Image.new("RGBA", (30, 30), (200, 0, 0, 255)).save(tmp_path / "red.png")
    learnt, held_out = kinds_of(tmp_path)
    assert not learnt.keys() & held_out.keys()
    assert "other stamps" in held_out
    assert "stamps" not in learnt
    for draw in (learnt | held_out).values():
        first, second = drawn(draw, 2, seed=0)
        again = next(drawn(draw, 1, seed=0))
        assert first.mode == "RGB"
        assert np.array_equal(first, again)
        assert first.size != second.size or not np.array_equal(first, second)
