from __future__ import annotations

import pytest
import torch

from vlm.config import ConfigError, DecoderConfig
from vlm.decoder import Decoder
from vlm.memory import Memory, image_memory

PATTERNS = ["scm", "smcm", "sm"]


def make(pattern: str = "scm", **changes) -> Decoder:
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=50, width=32, depth=2, heads=4, max_length=16, memory_width=24, pattern=pattern
    )
    decoder = Decoder(config.__class__(**{**vars(config), **changes})).eval()
    for weight in decoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return decoder


def some_memory(images: int = 1) -> Memory:
    torch.manual_seed(1)
    return image_memory(torch.randn(images, 6, 24), (2, 3))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("steps", [[1] * 8, [5, 1, 1, 1], [3, 4, 1], [1, 7]])
def test_cached_equals_uncached(pattern, prenorm, steps):
    """Also for a continuation of several tokens, whose mask must be offset by the past."""
    decoder = make(pattern, prenorm=prenorm)
    projected = decoder.project(some_memory())
    ids = torch.randint(50, (1, 8))
    whole = decoder(ids, projected).hidden
    cache, start, parts = None, 0, []
    for length in steps:
        decoded = decoder(ids[:, start : start + length], projected, cache)
        cache, start = decoded.cache, start + length
        parts.append(decoded.hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_no_token_sees_a_later_one():
    decoder = make()
    projected = decoder.project(some_memory())
    ids = torch.randint(50, (1, 8))
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 50
    before, after = decoder(ids, projected).hidden, decoder(changed, projected).hidden
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_left_padding_changes_nothing():
    decoder = make()
    memory = some_memory(2)
    ids = torch.randint(50, (2, 5))
    alone = decoder(ids[:1, 2:], decoder.project(memory.select([0]))).hidden
    valid = torch.tensor([[False, False, True, True, True], [True] * 5])
    together = decoder(ids, decoder.project(memory), valid=valid).hidden
    torch.testing.assert_close(together[:1, 2:], alone, atol=1e-5, rtol=1e-5)


def test_masked_slots_change_nothing():
    decoder = make()
    tokens = some_memory().tokens
    mask = torch.tensor([[True, True, True, True, False, False]])
    padded = Memory(tokens, image_memory(tokens, (2, 3)).segments, mask)
    short = image_memory(tokens[:, :4], (2, 2))
    ids = torch.randint(50, (1, 5))
    torch.testing.assert_close(
        decoder(ids, decoder.project(padded)).hidden, decoder(ids, decoder.project(short)).hidden
    )


def test_explicit_pass_gives_the_same_words_and_every_layer():
    decoder = make("smcm")
    projected = decoder.project(some_memory(2))
    ids = torch.randint(50, (4, 5))  # two texts an image
    fused, explicit = decoder(ids, projected), decoder(ids, projected, explicit=True)
    torch.testing.assert_close(fused.hidden, explicit.hidden)
    assert fused.cross_attention == ()
    assert [tuple(a.shape) for a in explicit.cross_attention] == [(4, 4, 5, 6)] * 2


def test_the_memory_matters():
    decoder = make()
    ids = torch.randint(50, (1, 5))
    one, other = some_memory(2).select([0]), some_memory(2).select([1])
    assert not torch.allclose(
        decoder(ids, decoder.project(one)).hidden, decoder(ids, decoder.project(other)).hidden
    )


def test_too_many_tokens_are_refused():
    decoder = make()
    with pytest.raises(ValueError, match="17 tokens are more than the decoder's 16"):
        decoder(torch.zeros(1, 17, dtype=torch.long), decoder.project(some_memory()))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"heads": 5}, "heads"),
        ({"pattern": "sxm"}, "pattern"),
        ({"pattern": ""}, "pattern"),
        ({"dropout": 1.0}, "dropout"),
        ({"depth": 0}, "depth"),
        ({"activation": "relu6"}, "activation"),
    ],
)
def test_impossible_configurations_are_named(changes, named):
    with pytest.raises(ConfigError, match=named):
        make(**changes)
