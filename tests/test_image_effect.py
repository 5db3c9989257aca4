"""What the image did for a text: as much as the text is less likely for one who does not see it."""

from __future__ import annotations

import pickle
from copy import copy

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from training.prepare import app as prepare
from vlm.answers import ImageEffect
from vlm.captioner import Captioner
from vlm.runtimes.packed import packed
from vlm.weights.store import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def image(tiny):
    generator = torch.Generator().manual_seed(0)
    return tiny.encode(torch.randint(256, (60, 90, 3), generator=generator).byte().numpy())


def without_image(tiny) -> Captioner:
    """The same model with an encoder that sees nothing: all its patches are zeros."""

    class Blind(torch.nn.Module):
        def forward(self, pixels):
            patches, grid = tiny.model.vision(pixels)
            return torch.zeros_like(patches), grid

    model = copy(tiny.model)
    model._modules = {**tiny.model._modules, "vision": Blind()}
    return Captioner(model, tiny.tokenizer)


@pytest.mark.parametrize("question", [None, "is there a dog?"])
def test_it_is_the_difference_to_a_model_that_sees_nothing(tiny, image, question):
    answer = image.explain("a black zebra", question)
    unseen = without_image(tiny).encode(image.picture).explain("a black zebra", question)
    effect = answer.image_effect
    assert effect.blind == "zeros"
    for nats, word, same in zip(effect.words, answer.words, unseen.words, strict=True):
        assert nats == pytest.approx(word.logprob - same.logprob, abs=1e-4)
    expected = (answer.score - unseen.score) * (len(answer.ids) + 1 if question is None else 1)
    assert effect.total == pytest.approx(expected, abs=1e-3)
    assert abs(effect.total) > 0.1


def test_who_sees_nothing_owes_nothing_to_the_image(tiny, image):
    effect = without_image(tiny).encode(image.picture).caption().image_effect
    assert effect.total == pytest.approx(0, abs=1e-4)
    assert effect.words == pytest.approx([0] * len(effect.words), abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"max_tokens": 3}, {"sample": True, "seed": 0}])
def test_words_and_what_ends_a_text_make_the_whole(image, options):
    answer = image.caption(**options)
    record = answer.to_dict()
    assert record["image_effect"] == answer.image_effect.total
    assert record["blind"] == "zeros"
    nats = [word["image_effect"] for word in record["words"]]
    assert nats == list(answer.image_effect.words)
    if not answer.finished:
        assert sum(nats) == pytest.approx(answer.image_effect.total, abs=1e-4)


def test_it_goes_along_where_the_image_does_not(image):
    answer = image.ask("is there a dog?")
    assert (
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(answer)))).image_effect
        == answer.image_effect
    )


def test_a_checkpoint_that_holds_the_mean_image_is_shown_that_instead(tiny, image, tmp_path):
    """Against the pipeline by hand, and through a file."""
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    pixels = []
    for i in range(3):
        picture = Image.fromarray(
            np.random.default_rng(i).integers(256, size=(50, 70, 3), dtype=np.uint8)
        )
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a dog")
        pixels.append(tiny.preprocess(picture)[0])
    save_checkpoint(tmp_path / "plain", tiny.model, tiny.tokenizer, torch.float32)
    arguments = ["mean", tmp_path / "plain", tmp_path / "photos", tmp_path / "out"]
    result = CliRunner().invoke(prepare, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "the mean of 3 images" in result.output
    seeing = Captioner(*load_checkpoint(tmp_path / "out"))
    with torch.inference_mode():
        patches, grid = tiny.model.vision(torch.stack(pixels))
        memory = tiny.model.remember(patches.mean(dim=0, keepdim=True), grid)
    torch.testing.assert_close(seeing.blind[0].tokens, memory.tokens, atol=1e-2, rtol=1e-2)
    answer, plain = (c.encode(image.picture).explain("a dog") for c in (seeing, tiny))
    assert answer.score == pytest.approx(plain.score, abs=1e-2)
    assert answer.image_effect.blind == "mean"
    assert abs(answer.image_effect.total - plain.image_effect.total) > 1e-2
    same = Captioner(packed(seeing.model), tiny.tokenizer).encode(image.picture).explain("a dog")
    assert same.image_effect.total == pytest.approx(answer.image_effect.total, abs=1e-3)


def test_words_that_language_alone_wrote_are_those_without_an_effect_and_none_of_the_question():
    effect = ImageEffect(2.0, (0.1, 3.0, -1.1), "mean")
    assert effect.alone([None] * 3) == {0}
    assert effect.alone([None] * 5) == {2}
