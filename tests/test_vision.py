from __future__ import annotations

import pytest
import torch

from vlm.model.config import VisionConfig
from vlm.model.vision import VisionEncoder, default_preprocess, folded

FAMILIES = [
    # timm name, input size, grid, is the input's aspect ratio free
    ("vit_tiny_patch16_224", (64, 96), (4, 6)),
    ("deit_tiny_distilled_patch16_224", (32, 32), (2, 2)),  # two prefix tokens
    ("test_vit3", (160, 96), (10, 6)),
    ("convnext_atto", (64, 96), (2, 3)),
    ("swin_tiny_patch4_window7_224", (224, 224), (7, 7)),
    ("tf_efficientnet_lite0", (64, 128), (2, 4)),
    ("resnet18", (96, 64), (3, 2)),
    ("pvt_v2_b0", (64, 96), (2, 3)),
]


def encoder(name: str, size: tuple[int, int]) -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(VisionConfig(name, default_preprocess(name, size))).eval()


@pytest.mark.parametrize(("name", "size", "grid"), FAMILIES)
def test_one_call_gives_patches_and_their_grid(name, size, grid):
    model = encoder(name, size)
    with torch.inference_mode():
        patches, actual = model(torch.randn(2, 3, *size))
    assert actual == grid
    assert patches.shape == (2, grid[0] * grid[1], model.width)


@pytest.mark.parametrize("name", ["test_vit3", "tf_efficientnet_lite0"])
def test_patches_come_row_by_row(name):
    """A change in one corner of the picture changes most the patch that the grid places there."""
    size = (96, 160)
    model = encoder(name, size)
    pixels = torch.zeros(1, 3, *size)
    changed = pixels.clone()
    changed[..., -16:, :16] = 3.0  # the bottom left
    with torch.inference_mode():
        (before, grid), (after, _) = model(pixels), model(changed)
    difference = (after - before).norm(dim=-1).view(grid)
    row, column = divmod(int(difference.argmax()), grid[1])
    assert row >= grid[0] - 2
    assert column <= 1


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_efficientnet", "resnet18"])
def test_detail_is_the_map_of_half_the_stride_cell_by_cell(name):
    size = (96, 160)
    preprocess = default_preprocess(name, size)
    torch.manual_seed(0)
    model = VisionEncoder(VisionConfig(name, preprocess, detail=True)).eval()
    pixels = torch.randn(2, 3, *size)
    with torch.inference_mode():
        patches, grid = model(pixels)
        fine = model.trunk.forward_intermediates(pixels, indices=[-2], intermediates_only=True)[0]
        coarse = model.trunk.forward_features(pixels)
    torch.testing.assert_close(patches[..., : model.width], coarse.flatten(2).transpose(1, 2))
    cells = patches[..., model.width :].view(2, *grid, model.detail_width, 2, 2)
    for row, column in [(0, 0), (1, 2), (5, 9)]:
        cell = cells[:, row // 2, column // 2, :, row % 2, column % 2]
        torch.testing.assert_close(cell, fine[:, :, row, column])


def test_an_encoder_without_a_finer_map_says_so():
    with pytest.raises(ValueError, match="test_vit3 has no map of half its stride"):
        VisionEncoder(VisionConfig("test_vit3", default_preprocess("test_vit3"), detail=True))


def test_prefix_tokens_are_dropped():
    model = encoder("deit_tiny_distilled_patch16_224", (32, 32))
    pixels = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        whole = model.trunk.forward_features(pixels)
        patches, _ = model(pixels)
    torch.testing.assert_close(patches, whole[:, 2:])


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "resnet18", "convnext_atto", "test_vit3", "xception41p"]
)
def test_folding_batch_norm_changes_no_patch(name):
    model = encoder(name, (64, 64))
    pixels = torch.randn(2, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    with torch.inference_mode():
        expected, actual = model(pixels)[0], folded(model)(pixels)[0]
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)


def test_folding_leaves_no_batch_norm_in_an_efficientnet():
    model = folded(encoder("tf_efficientnet_lite0", (64, 64)))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_unknown_encoder_is_named():
    with pytest.raises(ValueError, match="no_such_net"):
        encoder("no_such_net", (64, 64))
