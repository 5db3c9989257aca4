from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlm.explain.maps import token_maps, word_maps


@pytest.fixture(scope="module")
def image(tiny):
    generator = torch.Generator().manual_seed(0)
    return tiny.encode(torch.randint(256, (60, 90, 3), generator=generator).byte().numpy())


@torch.inference_mode()
def test_row_i_explains_token_i_plus_one(tiny, image):
    """The map of a token is the attention of the pass that predicted it: the row of the token before it."""
    ids = [tiny.tokenizer.caption, *tiny.tokenizer.encode("a dog runs")]
    maps = token_maps(tiny.model, image.memory, ids, layer=1, head=2)
    for position in range(1, len(ids)):
        prefix = torch.tensor([ids[:position]])
        decoded = tiny.model.decoder(prefix, image.projected, explicit=True)
        expected = decoded.cross_attention[1][0, 2, -1].view(image.memory.image.grid)
        torch.testing.assert_close(maps[position], expected)


def test_a_later_word_does_not_change_a_map(tiny, image):
    encode = tiny.tokenizer.encode
    start = tiny.tokenizer.caption_prompt()
    short = token_maps(tiny.model, image.memory, [*start, *encode("a dog")])
    long = token_maps(tiny.model, image.memory, [*start, *encode("a dog in the park")])
    torch.testing.assert_close(short, long[: len(short)])


def test_each_word_of_question_and_answer_has_a_map(tiny, image):
    ids = tiny.tokenizer.encode("two men")
    maps = word_maps(tiny.model, tiny.tokenizer, image.memory, ids, "is there a dog?")
    assert [m.text for m in maps] == ["is", "there", "a", "dog", "?", "two", "men"]
    assert [m.role for m in maps] == ["question"] * 5 + ["answer"] * 2
    for word in maps:
        assert word.grid == image.memory.image.grid
        assert word.weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert word.weights.min() >= 0


def test_a_word_of_several_tokens_has_their_mean(tiny, image):
    ids = tiny.tokenizer.encode("zebra")
    assert len(ids) > 1
    (word,) = word_maps(tiny.model, tiny.tokenizer, image.memory, ids)
    by_token = token_maps(tiny.model, image.memory, [*tiny.tokenizer.caption_prompt(), *ids])
    torch.testing.assert_close(word.weights, by_token[1:].mean(dim=0))


def test_default_is_the_mean_over_layers_and_heads(tiny, image):
    ids = [tiny.tokenizer.caption, *tiny.tokenizer.encode("a dog")]
    config = tiny.model.config.decoder
    single = [
        token_maps(tiny.model, image.memory, ids, layer, head)
        for layer in range(config.depth)
        for head in range(config.heads)
    ]
    torch.testing.assert_close(
        token_maps(tiny.model, image.memory, ids), torch.stack(single).mean(dim=0)
    )


def test_attention_on_no_patch_is_a_map_of_patches_all_alike(tiny, image):
    slots = image.memory.tokens.shape[1]
    memory = replace(image.memory, lift=torch.zeros(1, slots, slots))
    (word,) = word_maps(tiny.model, tiny.tokenizer, memory, tiny.tokenizer.encode("dog"))
    assert torch.equal(word.weights, torch.full(word.grid, 1 / slots))


@pytest.mark.parametrize("choice", [{"layer": 2}, {"layer": -1}, {"head": 4}])
def test_no_such_layer_or_head(tiny, image, choice):
    with pytest.raises(ValueError, match=r"must be 0 to"):
        word_maps(tiny.model, tiny.tokenizer, image.memory, [9], **choice)
