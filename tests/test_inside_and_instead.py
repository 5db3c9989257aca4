"""What the model might have written instead of a word, and what one head did as it chose it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from vlm.captioner import Captioner
from vlm.explain.finished import Finished
from vlm.explain.instead import instead
from vlm.explain.method import MethodError
from vlm.model.decoder import Decoded
from vlm.runtimes.layers import can_pack
from vlm.runtimes.packed import packed


@pytest.fixture(scope="module")
def image(tiny):
    generator = torch.Generator().manual_seed(0)
    return tiny.encode(torch.randint(256, (60, 90, 3), generator=generator).byte().numpy())


def test_words_of_several_tokens_have_all_of_their_probability_and_nothing_of_what_follows(
    tiny,
):
    """A planted decoder that looks at the last token alone."""
    tokenizer = tiny.tokenizer
    (a,), (dog,), (man,), (park,) = (tokenizer.encode(w) for w in ("a", "dog", "man", "park"))
    letter = tokenizer.backend.token_to_id("s")
    follow = {
        a: {dog: 0.5, man: 0.3, tokenizer.end: 0.2},
        dog: {letter: 0.6, park: 0.4},  # "dogs", and then
        letter: {park: 0.9, tokenizer.end: 0.1},
        man: {tokenizer.end: 1.0},
    }
    table = torch.full((tokenizer.vocab_size, tokenizer.vocab_size), -50.0)
    for token, options in follow.items():
        for other, probability in options.items():
            table[token, other] = math.log(probability)

    def forward(ids, projected, **options):
        return Decoded(table[ids], ())

    planted = Mock(side_effect=forward, logits=lambda hidden: hidden)
    model = SimpleNamespace(decoder=planted, reader=None, device=torch.device("cpu"))
    finished = Finished(model, tokenizer, None, None, (a, man))
    found = dict(instead(finished, 1, count=3))
    assert found == {
        "dogs": pytest.approx(0.3, abs=1e-3),
        "man": pytest.approx(0.3, abs=1e-3),
        "": pytest.approx(0.2, abs=1e-3),
    }


@pytest.mark.parametrize("question", [None, "is there a dog?"])
def test_alternatives_come_best_first(image, question):
    answer = image.explain("a dog in the park", question)
    for place in range(len(answer.words)):
        others = answer.instead(place)
        assert len(others) == 5
        assert others == sorted(others, key=lambda pair: -pair[1])
        assert 0 < sum(probability for _, probability in others) <= 1 + 1e-4


def test_the_word_that_greedy_search_wrote_is_the_likeliest(image):
    answer = image.caption(beams=1, max_tokens=12)
    first = answer.words[0]
    text, probability = answer.instead(0)[0]
    assert text == first.text
    assert probability == pytest.approx(math.exp(first.logprob), rel=1e-3)


@pytest.mark.parametrize("question", [None, "is there a dog?"])
@torch.inference_mode()
def test_a_heads_weights_are_the_softmax_of_its_scores_and_the_map_of_the_word(image, question):
    answer = image.explain("dog", question)
    for layer in (0, 1):
        for head in range(4):
            seen = answer.inside(0, layer, head)
            # All slots of this memory are patches.
            torch.testing.assert_close(seen.scores.flatten().softmax(0), seen.weights.flatten())
            assert seen.elsewhere == {}
            first = answer.image.finished(answer.ids, question)
            explicit = first.model.decoder(first.sequence, first.projected, explicit=True)
            row = first.rows[len(first.prompt.ids)]
            expected = explicit.cross_attention[layer][0, head, row]
            torch.testing.assert_close(seen.weights.flatten(), expected)
    if question is None and len(answer.ids) == 1:
        torch.testing.assert_close(
            answer.maps(layer=1, head=2, method="attention")[0].weights,
            answer.inside(0, 1, 2).weights,
        )


def test_what_a_patch_adds_is_as_long_as_the_value_method_says(image):
    answer = image.explain("a", None)
    assert len(answer.ids) == 1
    added = answer.inside(0, 1, 3).added
    (expected,) = answer.maps(layer=1, head=3, method="value")
    torch.testing.assert_close(added / added.sum(), expected.weights)


def test_passages_leave_what_the_decoders_own_layers_did_as_it_was(reading):
    """Layers behind them read passages, so for the same tokens they look as without."""
    image = reading.encode(Image.new("RGB", (60, 60), "red"))
    alone, beside = (
        i.explain("a dog", "what is it?") for i in (image, image.beside(["a red cat", "a dog"]))
    )
    for name in ("scores", "weights", "added"):
        expected, found = (getattr(one.inside(1, 1, 2), name) for one in (alone, beside))
        torch.testing.assert_close(found, expected)
    for ours, theirs in zip(beside.maps(1, 2, "value"), alone.maps(1, 2, "value"), strict=True):
        torch.testing.assert_close(ours.weights, theirs.weights)
        assert ours.elsewhere["passage 1"] == 0


def test_a_hidden_patch_has_no_weight_inside(image):
    seen = image.without((0, 0, 45, 60)).explain("dog").inside(0, 0, 0)
    assert seen.scores[:, 0].eq(float("-inf")).all()
    assert seen.weights[:, 0].eq(0).all()
    assert seen.added[:, 0].eq(0).all()
    assert seen.weights.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(not can_pack(), reason="no packed layers on this machine")
def test_packed_layers_show_the_same(tiny, image):
    quick = Captioner(packed(tiny.model), tiny.tokenizer).encode(image.picture).explain("a dog")
    plain = image.explain("a dog")
    torch.testing.assert_close(
        quick.inside(1, 1, 2).added, plain.inside(1, 1, 2).added, atol=1e-4, rtol=1e-3
    )
    assert [t for t, _ in quick.instead(1)] == [t for t, _ in plain.instead(1)]


@pytest.mark.parametrize("place", [-1, 99])
def test_there_is_no_such_word(image, place):
    answer = image.explain("a dog")
    for look in (lambda: answer.instead(place), lambda: answer.inside(place, 0, 0)):
        with pytest.raises(MethodError, match="there is no word"):
            look()
    with pytest.raises(MethodError, match="layer must be"):
        answer.inside(0, 9, 0)
