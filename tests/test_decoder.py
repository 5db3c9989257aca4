from __future__ import annotations

import pytest
import torch

from vlm.model.config import ConfigError, DecoderConfig
from vlm.model.decoder import Decoder
from vlm.model.memory import Memory, image_memory

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


FAMILIES = {
    "BLIP": {"prenorm": False, "embedding_norm": True, "head_transform": True, "head_bias": True},
    "CoCa": {"pattern": "smcm", "text_layers": 2, "memory_norm": True, "tied": False},
    "TrOCR": {"prenorm": False, "embedding_scale": 32**0.5, "activation": "relu"},
}


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_cached_equals_uncached_for_other_families(changes):
    decoder = make(**changes)
    projected = decoder.project(some_memory())
    ids = torch.randint(50, (1, 8))
    first = decoder(ids[:, :3], projected)
    second = decoder(ids[:, 3:], projected, first.cache)
    whole = decoder.logits(decoder(ids, projected).hidden)
    parts = torch.cat([decoder.logits(first.hidden), decoder.logits(second.hidden)], dim=1)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_every_option_is_read(changes):
    """Leaving any of them out changes the logits or the weights."""
    ids = torch.randint(50, (1, 8))

    def outcome(changes):
        decoder = make(**changes)
        torch.manual_seed(2)
        for weight in decoder.parameters():
            torch.nn.init.normal_(weight, std=0.5)
        logits = decoder.logits(decoder(ids, decoder.project(some_memory())).hidden)
        return sum(weight.numel() for weight in decoder.parameters()), logits

    size, logits = outcome(changes)
    for name in changes:
        other_size, other = outcome({k: v for k, v in changes.items() if k != name})
        assert other_size != size or not torch.allclose(other, logits, atol=1e-3), name


def test_a_native_decoder_has_the_weights_it_always_had():
    """Checkpoints hold these names; options that it does not use add none."""
    kinds = {"s": ("query", "key_value", "out"), "m": ("up", "down")}
    kinds["c"] = kinds["s"]
    modules = ["final_norm"]
    for i, kind in enumerate("scm" * 2):
        modules += [f"sublayers.{i}.norm", *(f"sublayers.{i}.body.{n}" for n in kinds[kind])]
    expected = {f"{name}.{part}" for name in modules for part in ("weight", "bias")}
    expected |= {"token_embedding.weight", "position_embedding.weight"}
    assert make().state_dict().keys() == expected


def test_without_causality_a_token_sees_later_ones_and_no_padding():
    decoder = make("scm", causal=False)
    memory = some_memory(2)
    ids = torch.randint(50, (2, 5))
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % 50
    projected = decoder.project(memory)
    before, after = decoder(ids, projected).hidden, decoder(changed, projected).hidden
    assert not torch.allclose(before[:, 0], after[:, 0])

    alone = decoder(ids[:1, 2:], decoder.project(memory.select([0]))).hidden
    valid = torch.tensor([[False, False, True, True, True], [True] * 5])
    together = decoder(ids, projected, valid=valid).hidden
    torch.testing.assert_close(together[:1, 2:], alone, atol=1e-5, rtol=1e-5)


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
        ({"text_layers": -1}, "text_layers"),
    ],
)
def test_impossible_configurations_are_named(changes, named):
    with pytest.raises(ConfigError, match=named):
        make(**changes)
