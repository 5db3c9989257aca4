"""A word's map is where the model looked for that word and no other: planted answers, and meaning."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest
import torch

from vlm.explain.finished import Finished
from vlm.explain.maps import METHODS, word_maps
from vlm.explain.method import Choice, MethodError
from vlm.prompts import caption_prompt


@pytest.fixture(scope="module")
def image(tiny):
    generator = torch.Generator().manual_seed(0)
    return tiny.encode(torch.randint(256, (60, 90, 3), generator=generator).byte().numpy())


@pytest.fixture(scope="module")
def finished(tiny, image):
    """A text, or an answer to a question, about the image."""

    def finish(text: str, question: str | None = None) -> Finished:
        ids = tuple(tiny.tokenizer.encode(text))
        return Finished(tiny.model, tiny.tokenizer, image.memory, image.projected, ids, question)

    return finish


def by_token(finished: Finished, method: str = "attention", **choice) -> torch.Tensor:
    """Weights on the patches of each token of the prompt and the text, `(T, h, w)`."""
    return METHODS[method].weigh(finished, Choice(**choice))[0].patches


@torch.inference_mode()
def test_a_chosen_words_map_is_that_of_the_pass_that_predicted_it(tiny, image, finished):
    """Row i explains token i + 1: the pass over the tokens before a word chose it."""
    text = finished("a dog runs")
    tokens = by_token(text, layer=1, head=2)
    ids = [*caption_prompt(tiny.tokenizer).ids, *text.ids]
    for position in range(1, len(ids)):
        prefix = torch.tensor([ids[:position]])
        decoded = tiny.model.decoder(prefix, image.projected, explicit=True)
        expected = decoded.cross_attention[1][0, 2, -1].view(image.memory.image.grid)
        torch.testing.assert_close(tokens[position], expected)


@torch.inference_mode()
def test_a_given_words_map_is_that_of_the_pass_that_read_it(tiny, image, finished):
    asked = finished("yes", "is there a dog?")
    tokens = by_token(asked, layer=1, head=2)
    for position in asked.asked.given:
        prefix = torch.tensor([asked.asked.ids[: position + 1]])
        decoded = tiny.model.decoder(prefix, image.projected, explicit=True)
        expected = decoded.cross_attention[1][0, 2, -1].view(image.memory.image.grid)
        torch.testing.assert_close(tokens[position], expected)


@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [("is there a dog?", "is there a cat?", 3), ("what man is it?", "which man is it?", 0)],
)
def test_changing_a_word_of_the_question_changes_its_map_and_none_before(
    finished, one, other, changed
):
    maps = [word_maps(finished("yes", question)) for question in (one, other)]
    assert [m.text for m in maps[0]][:changed] == [m.text for m in maps[1]][:changed]
    for before in range(changed):
        torch.testing.assert_close(maps[0][before].weights, maps[1][before].weights)
    assert not torch.allclose(maps[0][changed].weights, maps[1][changed].weights, atol=1e-4)


def test_changing_a_word_of_a_caption_changes_maps_behind_it_and_none_before(finished):
    """Where attention looked as a word was chosen is known before the word, and what spoke for it is not."""
    for method, same in (("attention", 2), ("logit", 1)):
        one, other = (word_maps(finished(text), method) for text in ("a dog runs", "a girl runs"))
        for position in range(same):
            torch.testing.assert_close(one[position].weights, other[position].weights)
        for position in range(same, 3):
            assert not torch.allclose(one[position].weights, other[position].weights, atol=1e-4)


def test_a_later_word_does_not_change_a_map(finished):
    short, long = (word_maps(finished(text)) for text in ("a dog", "a dog in the park"))
    for before, after in zip(short, long):
        torch.testing.assert_close(before.weights, after.weights)


def test_each_word_of_question_and_answer_has_a_map(image, finished):
    maps = word_maps(finished("two men", "Is there a dog ?"))
    assert [m.text for m in maps] == ["is", "there", "a", "dog", "?", "two", "men"]
    assert [m.role for m in maps] == ["question"] * 5 + ["answer"] * 2
    for word in maps:
        assert word.grid == image.memory.image.grid
        assert word.weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert word.weights.min() >= 0
        assert word.mass == pytest.approx(1, abs=1e-5), "this model looks at nothing but patches"
        assert word.method == "logit"


def test_a_word_that_occurs_twice_has_a_map_each(finished):
    maps = word_maps(finished("a dog and a dog"))
    first, second = (m for m in maps if m.text == "dog")
    assert not torch.allclose(first.weights, second.weights, atol=1e-4)


def test_a_word_of_several_tokens_has_their_mean(finished):
    text = finished("zebra")
    assert len(text.ids) > 1
    (word,) = word_maps(text, "attention")
    tokens = by_token(text)
    torch.testing.assert_close(word.weights, tokens[1:].mean(dim=0))


def test_default_is_the_mean_over_layers_and_heads(tiny, finished):
    text, config = finished("a dog"), tiny.model.config.decoder
    single = [
        by_token(text, layer=layer, head=head)
        for layer in range(config.depth)
        for head in range(config.heads)
    ]
    tokens = by_token(text)
    torch.testing.assert_close(tokens, torch.stack(single).mean(dim=0))


@pytest.mark.parametrize(("share", "mass"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_what_fell_elsewhere_is_missing_from_the_mass(image, finished, share, mass):
    """Slots that draw on patches with a share only: the rest of the attention is nowhere on the image."""
    slots = image.memory.tokens.shape[1]
    lift = share * torch.eye(slots)[None]
    (word,) = word_maps(replace(finished("dog"), memory=replace(image.memory, lift=lift)))
    assert word.mass == pytest.approx(mass, abs=1e-5)
    (whole,) = word_maps(finished("dog"))
    expected = whole.weights if share else torch.full(word.grid, 1 / slots)
    torch.testing.assert_close(word.weights, expected)


def test_alignment_heads_alone_make_the_default(tiny, finished):
    text = finished("a dog")
    decoder = replace(tiny.model.config.decoder, alignment_heads=((1, 2), (0, 3)))
    model = copy(tiny.model)
    model.config = replace(tiny.model.config, decoder=decoder)
    chosen = [by_token(text, layer=layer, head=head) for layer, head in ((1, 2), (0, 3))]
    own = replace(text, model=model)
    torch.testing.assert_close(by_token(own), sum(chosen) / 2)
    torch.testing.assert_close(by_token(own, layer=1), by_token(text, layer=1))
    torch.testing.assert_close(by_token(text, heads=((1, 2), (0, 3))), by_token(own))


@pytest.mark.parametrize("choice", [{"layer": 2}, {"layer": -1}, {"head": 4}, {"heads": ((2, 0),)}])
def test_no_such_layer_or_head(finished, choice):
    with pytest.raises(MethodError, match=r"must be 0 to"):
        word_maps(finished("a dog"), choice=Choice(**choice))


def test_no_such_method(image):
    with pytest.raises(MethodError, match="there are: logit, attention"):
        image.explain("a dog").maps(method="magic")
    with pytest.raises(
        MethodError, match="occlusion has no head to choose; these have: logit, attention"
    ):
        image.explain("a dog").maps(method="occlusion", head=1)
    with pytest.raises(MethodError, match="not both"):
        image.explain("a dog").maps(layer=0, heads=[(0, 1)])
