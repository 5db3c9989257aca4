from __future__ import annotations

import pytest
import torch

from vlm.model.attention import Attention, causal_mask
from vlm.runtimes.twin import FusedSelfAttention


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    return Attention(width=16, heads=4, source_width=12).eval()


FIRST = torch.arange(7) == 0  # every query may look at something
MASKS = [
    None,
    (torch.rand(2, 1, 1, 7) > 0.3) | FIRST,
    (torch.rand(2, 1, 5, 7) > 0.3) | FIRST,
]


@pytest.mark.parametrize("mask", MASKS)
def test_fused_equals_explicit(attention, mask):
    x, source = torch.randn(2, 5, 16), torch.randn(2, 7, 12)
    key_value = attention.project(source)
    fused, _, nothing = attention(x, key_value, mask=mask)
    explicit, _, probabilities = attention(x, key_value, mask=mask, explicit=True)
    assert nothing is None
    torch.testing.assert_close(fused, explicit)
    assert probabilities.shape == (2, 4, 5, 7)


@pytest.mark.parametrize("mask", MASKS)
def test_probabilities_sum_to_one_over_open_slots(attention, mask):
    key_value = attention.project(torch.randn(2, 7, 12))
    x = torch.randn(2, 5, 16)
    _, _, probabilities = attention(x, key_value, mask=mask, explicit=True)
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(2, 4, 5))
    if mask is not None:
        assert probabilities.masked_select(~mask.expand_as(probabilities)).abs().sum() == 0


def test_probabilities_carry_gradients(attention):
    x = torch.randn(1, 3, 16, requires_grad=True)
    _, _, probabilities = attention(x, attention.project(torch.randn(1, 4, 12)), explicit=True)
    probabilities[0, 0, 0, 0].backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("explicit", [False, True])
def test_rows_of_one_image_share_its_keys(attention, explicit):
    """Six rows over two images give what the same rows give over six copies of the images."""
    x, source = torch.randn(6, 5, 16), torch.randn(2, 7, 12)
    keys, values = attention.project(source)
    mask = torch.rand(2, 1, 1, 7) > 0.4
    mask[..., 0] = True
    shared, _, shared_probabilities = attention(x, (keys, values), None, mask, explicit)
    copies = keys.repeat_interleave(3, 0), values.repeat_interleave(3, 0)
    copied_mask = mask.repeat_interleave(3, 0)
    copied, _, copied_probabilities = attention(x, copies, None, copied_mask, explicit)
    torch.testing.assert_close(shared, copied)
    if explicit:
        torch.testing.assert_close(shared_probabilities, copied_probabilities)


def test_matches_torch_multihead_attention(attention):
    reference = torch.nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True).eval()
    keys, values = attention.key_value.weight.chunk(2)
    key_bias, value_bias = attention.key_value.bias.chunk(2)
    reference.load_state_dict(
        {
            "q_proj_weight": attention.query.weight,
            "k_proj_weight": keys,
            "v_proj_weight": values,
            "in_proj_bias": torch.cat([attention.query.bias, key_bias, value_bias]),
            "out_proj.weight": attention.out.weight,
            "out_proj.bias": attention.out.bias,
        }
    )
    x, source = torch.randn(2, 5, 16), torch.randn(2, 7, 12)
    expected, weights = reference(x, source, source, average_attn_weights=False)
    actual, _, probabilities = attention(x, attention.project(source), explicit=True)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(probabilities, weights)


@pytest.mark.parametrize("explicit", [False, True])
@torch.inference_mode()
def test_looking_back_is_attention_to_all_tokens_so_far(explicit):
    plain = Attention(width=16, heads=4).eval()
    x = torch.randn(2, 5, 16)
    expected, _, _ = plain(x, plain.project(x), None, causal_mask(5, 0, x.device))
    for attention in (plain, FusedSelfAttention(plain)):
        start, past, _ = attention(x[:, :3], None, None, causal_mask(3, 0, x.device), explicit)
        rest, all_tokens, _ = attention(x[:, 3:], None, past, causal_mask(2, 3, x.device), explicit)
        torch.testing.assert_close(torch.cat([start, rest], dim=1), expected)
        assert all_tokens[0].shape == all_tokens[1].shape == (2, 4, 5, 4)


def test_causal_mask_continues_a_past():
    expected = [[True, True, True, False], [True, True, True, True]]
    assert causal_mask(2, 2, torch.device("cpu")).tolist() == expected
