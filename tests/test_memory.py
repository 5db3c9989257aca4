from __future__ import annotations

import pytest
import torch

from vlm.model.config import DecoderConfig
from vlm.model.decoder import Decoder, Projected
from vlm.model.memory import Memory, Segment, grid_positions, image_memory, word_memory


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


def patches_and_words() -> Memory:
    patches = image_memory(torch.ones(2, 5, 4), (2, 2))  # with a class token in front
    words = word_memory(torch.zeros(2, 3, 4), "tags", [("a", "dog", "run"), ("cat",)])
    return Memory.concat([words, patches])


def test_patches_and_words_lie_side_by_side():
    memory = patches_and_words()
    places = [(s.name, s.start, s.stop) for s in memory.segments]
    assert places == [("tags", 0, 3), ("class", 3, 4), ("image", 4, 8)]
    assert memory.mask.tolist() == [[True] * 8, [True, False, False] + [True] * 5]
    attention = torch.tensor([0.1, 0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1]).expand(2, 3, 8)
    assert memory.on_patches(attention).sum(dim=(-2, -1)).flatten().tolist() == pytest.approx(
        [0.4] * 6
    )
    shares = memory.shares(attention)
    assert [shares[name][0, 0].item() for name in ("tags", "class", "image")] == pytest.approx(
        [0.4, 0.2, 0.4]
    )


def test_words_go_with_their_image():
    chosen = patches_and_words().select([1])
    assert chosen.segments[0].words == (("cat",),)
    assert chosen.mask.tolist() == [[True, False, False] + [True] * 5]


def test_slots_that_draw_on_patches_keep_doing_so_beside_words():
    pooled = Memory(
        torch.zeros(1, 2, 4), (Segment("image", 0, 2, (1, 2)),), lift=torch.eye(2)[None]
    )
    memory = Memory.concat([pooled, word_memory(torch.zeros(1, 1, 4), "tags", [("dog",)])])
    patches = memory.on_patches(torch.tensor([[0.3, 0.2, 0.5]]))
    torch.testing.assert_close(patches, torch.tensor([[[[0.3, 0.2]]]]))


def test_two_segments_of_a_name_or_two_images_are_refused():
    patches, words = image_memory(torch.ones(1, 4, 4), (2, 2)), torch.ones(1, 1, 4)
    with pytest.raises(ValueError, match="names of their own"):
        Memory.concat([patches, patches])
    other = Memory(words, (Segment("other", 0, 1, (1, 1)),))
    with pytest.raises(ValueError, match="one image"):
        Memory.concat([patches, other])


@torch.inference_mode()
def test_a_padded_memory_gives_what_it_gives_alone():
    """Memories of different lengths, with and without masks, in one batch."""
    config = DecoderConfig(vocab_size=20, width=16, depth=2, heads=2, memory_width=4)
    torch.manual_seed(0)
    decoder, ids = Decoder(config).eval(), torch.tensor([[1, 2, 3]])
    patches = image_memory(torch.randn(1, 4, 4), (2, 2))
    words = word_memory(torch.randn(1, 3, 4), "tags", [("a", "dog")])
    memories = [patches, Memory.concat([patches, words]), words]
    parts = [decoder.project(memory) for memory in memories]
    together = decoder(ids.expand(3, -1), Projected.stack(parts)).hidden
    for hidden, part in zip(together, parts):
        torch.testing.assert_close(hidden, decoder(ids, part).hidden[0])
    assert Projected.stack(parts[:1]) is parts[0]
