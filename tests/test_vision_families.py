"""One small model of every family of timm: its patches lie where the grid has them, or it is refused by name."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from vlm.images import Preprocess
from vlm.model.config import ConfigError, VisionConfig
from vlm.model.vision import VisionEncoder, folded, probe, probe_pixels

HALF = (0.5, 0.5, 0.5)
# The smallest of each module of timm, where it is not the first that timm lists.
NAMES = """
    lambda_resnet26t test_byobnet cait_xxs24_224 coat_lite_tiny convit_tiny test_convnext cpubone_nano
    cs3darknet_focus_s cspnext_tiny davit_tiny deit_tiny_patch16_224 dla46x_c edgenext_xx_small
    efficientformerv2_s0 test_efficientnet vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8
    focalnet_tiny_srf gcvit_xxtiny hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
    hrnet_w18_small iformer_t lcnetv2_small levit_128s test_mambaout test_coatnet poolformerv2_s12
    gmlp_ti16_224 lcnet_035 mobilenetv5_base mobilevit_xxs mvitv2_tiny
    naflexvit_base_patch16_parfac_gap nest_tiny nextvit_small test_nfnet rdnet_tiny regnetx_002
    repvit_m1 res2next50 test_resnet legacy_seresnet18 sequencer2d_s starnet_s050 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tnt_s_legacy_patch16_224
    tresnet_m twins_svt_small visformer_tiny test_vit vit_tiny_r_s16_p8_224 samvit_base_patch16_224
    vitamin_small_224 ese_vovnet19b_slim_dw xception41p xcit_nano_12_p8_224
"""
SMALLEST = set(NAMES.split())
# Layers fewer than the smallest has.
OPTIONS = {"deepseek_vit": {"depth": 2}, "gemma4_vit": {"depth": 2}}
# Where small images have too few patches to tell places by, or have to be a multiple of the patch.
SIZES = {
    "byoanet": (256, 256),
    "deepseek_vit": (126, 210),
    "inception_v3": (256, 384),
    "inception_v4": (256, 384),
}
# Those whose random weights let every patch see all of the image alike: their order is not to be seen.
GLOBAL = ("efficientvit_mit", "levit")
REFUSED = {
    "coat_tiny": "gives several maps",
    "crossvit_tiny_240": "gives several maps",
    "efficientvim_m1": "gives several maps",
    "pit_ti_224": "gives 1 tokens for 224 x 224 pixels",
}


def name_of(module: str) -> str:
    names = timm.list_models(module=module)
    return next((name for name in names if name in SMALLEST), names[0])


REFUSED_MODULES = ("crossvit", "efficientvim", "pit")
MODULES = [module for module in sorted(timm.list_modules()) if module not in REFUSED_MODULES]


@torch.no_grad()
def make(name: str, size: tuple[int, int], **options) -> VisionEncoder:
    """An encoder of random weights, whose batch norms are of what they see, and none multiplies by 0."""
    torch.manual_seed(0)
    encoder = VisionEncoder(VisionConfig(name, Preprocess(size, HALF, HALF), options)).eval()
    probe(encoder)
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        if not norm.weight.any():
            norm.weight.fill_(0.5)
    if norms:
        encoder.train()(torch.randn(4, 3, *size))
    return encoder.eval()


def small(module: str) -> VisionEncoder:
    """A module's model for small images that are wider than high, or of its own size where it insists."""
    name, options = name_of(module), OPTIONS.get(module, {})
    own = timm.get_pretrained_cfg(name).input_size[1:]
    for size in (SIZES.get(module, (128, 192)), own):
        try:
            return make(name, size, **options)
        except ConfigError:
            if size == own:
                raise
    raise AssertionError


@torch.inference_mode()
def where_patches_change(encoder: VisionEncoder) -> tuple[Tensor, Tensor]:
    """How much a bright square in each corner changes each patch, and how near that is: logarithms `(4, h, w)`."""
    height, width = encoder.config.preprocess.size
    generator = torch.Generator().manual_seed(1)
    corners = [(0.2, 0.8), (0.8, 0.2), (0.2, 0.2), (0.8, 0.8)]
    changes = []
    for row, column in corners:
        pixels = torch.randn(1, 3, height, width, generator=generator)
        bright = pixels.clone()
        top, left = int(row * height) - height // 8, int(column * width) - width // 8
        bright[..., top : top + height // 4, left : left + width // 4] += 3
        (before, grid), (after, _) = encoder(pixels), encoder(bright)
        change = (after - before).norm(dim=-1).view(grid)
        changes.append(change / change.mean())
    rows = (torch.arange(grid[0]) + 0.5)[:, None] / grid[0]
    columns = (torch.arange(grid[1]) + 0.5) / grid[1]
    near = torch.stack([-((rows - r) ** 2 + (columns - c) ** 2) for r, c in corners])
    change = (torch.stack(changes) + 1e-3).log()  # a patch that sees nothing of it changes by 0
    return change - change.mean(dim=0), near - near.mean(dim=0)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_patches_lie_where_the_grid_has_them(module):
    encoder = small(module)
    change, near = where_patches_change(encoder)
    assert change.shape[1] * change.shape[2] > 1
    if module not in GLOBAL:
        straight = correlation(change, near)
        across = change.reshape(4, change.shape[2], change.shape[1]).transpose(1, 2)
        wrong = {"rows": change.flip(1), "columns": change.flip(2), "column by column": across}
        assert straight > 0.3
        for name, other in wrong.items():
            assert correlation(other, near) < straight, name
    with torch.no_grad():
        torch.testing.assert_close(probe(folded(encoder)), probe(encoder), atol=1e-2, rtol=1e-2)


@torch.inference_mode()
def test_the_tokens_of_levit_are_the_map_of_its_twin():
    tokens, maps = (make(name, (128, 192)) for name in ("levit_128s", "levit_conv_128s"))
    places = maps.state_dict()
    same = {name: w.reshape(places[name].shape) for name, w in tokens.state_dict().items()}
    maps.load_state_dict(same)
    assert maps.trunk.forward_features(torch.zeros(1, 3, 128, 192)).ndim == 4
    # Random weights make a rounding error of 1e-7 grow to 0.5, of features of 100: in float32 each of the two is as far
    # from what it means as they are from each other. In float64 the same growth leaves 1e-9.
    pixels = probe_pixels(tokens).double()
    torch.testing.assert_close(maps.double()(pixels), tokens.double()(pixels), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["volo_d1_224", "coat_lite_tiny"])
def test_a_class_token_that_is_not_declared_is_told_from_the_patches(name):
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    encoder = make(name, (64, 96))
    with torch.inference_mode():
        patches, grid = encoder(torch.randn(1, 3, 64, 96))
        whole = encoder.trunk.forward_features(torch.zeros(1, 3, 64, 96))
    assert patches.shape == (1, grid[0] * grid[1], encoder.width)
    assert whole.shape[1] == patches.shape[1] + 1
    change, near = where_patches_change(encoder)
    assert correlation(change, near) > 0.3


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_what_gives_no_patches_is_refused_by_name(name, reason):
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    size = timm.get_pretrained_cfg(name).input_size[1:]
    with pytest.raises(ConfigError, match=f"^{name} {reason}"):
        make(name, size)


def test_a_size_that_an_encoder_does_not_take_is_named():
    with pytest.raises(ConfigError, match=r"^efficientformer_l1 takes no images of 96 x 160: "):
        make("efficientformer_l1", (96, 160))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("no_such_net", {}, "timm cannot make 'no_such_net': Unknown model"),
        ("test_vit", {"dpeth": 3}, "timm cannot make 'test_vit': .*dpeth"),
        ("test_vit", {"depth": "three"}, "timm cannot make 'test_vit'"),
        ("test_vit", {"embed_dim": 0}, "timm cannot make 'test_vit'"),
        ("test_vit", {"num_heads": 7}, "timm cannot make 'test_vit'"),
    ],
)
def test_what_timm_cannot_make_is_named(name, options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        make(name, (64, 64), **options)
    assert "\n" not in str(caught.value)
