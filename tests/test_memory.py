from __future__ import annotations

import pytest
import torch

from vlm.model.memory import Memory, Segment, grid_positions, image_memory


def test_attention_on_plain_patches_is_itself():
    memory = image_memory(torch.zeros(2, 6, 4), (2, 3))
    attention = torch.rand(2, 5, 6)
    torch.testing.assert_close(memory.on_patches(attention), attention.view(2, 5, 2, 3))


def test_slots_before_the_image_keep_their_weight():
    segments = (Segment("class", 0, 1), Segment("image", 1, 5, (2, 2)))
    attention = torch.tensor([[0.6, 0.1, 0.1, 0.1, 0.1]])
    patches = Memory(torch.zeros(1, 5, 4), segments).on_patches(attention)
    assert patches.sum().item() == pytest.approx(0.4)


def test_pooled_slots_draw_on_patches_through_the_lift():
    """Two queries over four patches: attention to a query is attention to what it draws on."""
    lift = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 0.5, 0.5]]])
    memory = Memory(torch.zeros(1, 2, 4), (Segment("image", 0, 2, (2, 2)),), lift=lift)
    patches = memory.on_patches(torch.tensor([[[0.2, 0.8]]]))
    torch.testing.assert_close(patches, torch.tensor([[[[0.2, 0.0], [0.4, 0.4]]]]))


def test_select_takes_everything_of_a_row():
    memory = Memory(
        torch.arange(3.0).view(3, 1, 1),
        (Segment("image", 0, 1, (1, 1)),),
        mask=torch.tensor([[True], [False], [True]]),
        lift=torch.arange(3.0).view(3, 1, 1),
    ).select([2, 1])
    assert memory.tokens.flatten().tolist() == [2, 1]
    assert memory.mask.flatten().tolist() == [True, False]
    assert memory.lift.flatten().tolist() == [2, 1]


def test_a_memory_without_image_says_so():
    with pytest.raises(ValueError, match="no image"):
        _ = Memory(torch.zeros(1, 2, 4), (Segment("passage", 0, 2),)).image


@pytest.mark.parametrize("width", [8, 10, 32])
def test_every_cell_has_a_code_of_its_own(width):
    codes = grid_positions((5, 7), width)
    assert codes.shape == (35, width)
    distances = torch.cdist(codes, codes) + torch.eye(35) * 9
    assert distances.min() > 0.05


def test_the_same_place_has_the_same_code_on_another_grid():
    coarse = grid_positions((3, 3), 16).view(3, 3, 16)
    fine = grid_positions((9, 9), 16).view(9, 9, 16)
    torch.testing.assert_close(coarse, fine[1::3, 1::3])
