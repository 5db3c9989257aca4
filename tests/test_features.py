"""The feature cache: true to the encoder, built in shards that survive an interruption, and never out of date."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import ImageOps
from small_runs import draw_photos

import training.loop.features as features
from training.data.records import DataError, ImageRef
from training.loop.features import FeatureCache, build_features, fingerprint
from vlm.images import load_image
from vlm.model.config import VisionConfig
from vlm.model.vision import VisionEncoder, default_preprocess


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    name = "test_efficientnet"
    return VisionEncoder(VisionConfig(name, default_preprocess(name, (64, 64)))).eval()


@pytest.fixture
def images(tmp_path: Path) -> list[ImageRef]:
    folder = draw_photos(tmp_path / "photos", 10)
    return [ImageRef(str(path)) for path in sorted(folder.glob("*.png"))]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD", 4)


def build(
    folder: Path, encoder: VisionEncoder, images: list[ImageRef], **more: object
) -> list[str]:
    said: list[str] = []
    build_features(folder, encoder, images, workers=0, say=said.append, **more)  # type: ignore[arg-type]
    return said


def encode(encoder: VisionEncoder, image: ImageRef, mirrored: bool) -> torch.Tensor:
    picture = load_image(image.read())
    picture = ImageOps.mirror(picture) if mirrored else picture
    with torch.inference_mode():
        return encoder(encoder.config.preprocess(picture)[0][None])[0][0]


def test_rows_are_the_encoders_patches_of_images_and_mirror_images(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    build(tmp_path / "cache", encoder, images, mirrored=images[:3])
    cache = FeatureCache(tmp_path / "cache")
    keys = [images[2].key, images[7].key, images[2].key]
    patches = cache.get(keys, [False, False, True])
    assert patches.shape == (3, *cache.shape)
    assert cache.grid[0] * cache.grid[1] == cache.shape[0]
    for row, (image, mirrored) in zip(patches, [(2, False), (7, False), (2, True)]):
        expected = encode(encoder, images[image], mirrored)
        assert torch.allclose(row.float(), expected, atol=2e-2, rtol=2e-2)
    with pytest.raises(KeyError):
        cache.get([images[5].key], [True])


def test_an_interrupted_build_goes_on_where_it_was(
    tmp_path: Path,
    encoder: VisionEncoder,
    images: list[ImageRef],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, written = features._write_shard, []

    def interrupted(path: Path, *rest: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", encoder, images)
    monkeypatch.setattr(features, "_write_shard", write)
    (tmp_path / "cache" / "000002.npy").write_bytes(b"half a shard")  # the other thing it leaves

    assert build(tmp_path / "cache", encoder, images) == ["encoding images 1 to 2 of 2 in float32"]
    cache = FeatureCache(tmp_path / "cache")
    assert all(image.key in cache for image in images)
    assert build(tmp_path / "cache", encoder, images) == []


def test_a_full_disk_is_a_clear_error_and_the_build_goes_on_once_there_is_room(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    folder = tmp_path / "cache"
    build(folder, encoder, images[:4])
    # The device that is always full stands in for the file that is being written.
    (folder / "000001.npy.tmp").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"could not be written .*Make room, .* run the same"):
        build(folder, encoder, images)
    assert images[0].key in FeatureCache(folder)
    assert build(folder, encoder, images)[0] == "encoding images 1 to 4 of 6 in float32"
    assert all(image.key in FeatureCache(folder) for image in images)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, encoder: VisionEncoder) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written: Not a directory; name .* --cache"):
        build(tmp_path / "file" / "cache", encoder, [])


def test_the_encoder_runs_on_the_device_that_is_asked_for(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    """On "meta" all is computed but its values, so that the way back is the first thing to fail."""
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        build(tmp_path / "cache", encoder, images, device="meta")
    assert encoder.trunk.conv_stem.weight.device.type == "cpu"  # the caller's own stays


def test_bfloat16_agrees_with_float32(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    build(tmp_path / "whole", encoder, images[:4])
    build(tmp_path / "half", encoder, images[:4], bf16=True)
    keys = [image.key for image in images[:4]]
    whole, half = (FeatureCache(tmp_path / n).get(keys).float() for n in ("whole", "half"))
    assert not torch.equal(whole, half)  # it is what was asked for
    assert (whole - half).norm() < 0.03 * whole.norm()


def test_processes_share_the_work(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    """Also when one has written before the other has looked."""
    folder = tmp_path / "cache"
    build(folder, encoder, images[:3])
    first = build(folder, encoder, images, rank=1, world=2)
    assert first == ["encoding images 1 to 4 of 4 in float32"]
    assert build(folder, encoder, images, rank=0, world=2) == [
        "encoding images 1 to 3 of 3 in float32"
    ]
    assert all(image.key in FeatureCache(folder) for image in images)


def test_an_image_that_has_changed_is_encoded_again(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    folder = tmp_path / "cache"
    build(folder, encoder, images)
    old = FeatureCache(folder).get([images[0].key])
    os.replace(images[5].path, images[0].path)
    build(folder, encoder, [images[0]])
    cache = FeatureCache(folder)
    assert not torch.equal(cache.get([images[0].key]), old)
    moved = cache.get([images[5].key])
    assert torch.allclose(cache.get([images[0].key]), moved, atol=1e-3)


def test_unreadable_images_have_no_row_and_are_named_until_they_are_mended(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    whole = Path(images[3].path).read_bytes()
    Path(images[3].path).write_bytes(whole[:50])
    missing = ImageRef(str(tmp_path / "missing.png"))
    build(tmp_path / "cache", encoder, [*images, missing])
    cache = FeatureCache(tmp_path / "cache")
    assert images[3].key not in cache
    assert set(cache.unreadable) == {images[3].key, missing.key}
    assert "truncated" in cache.unreadable[images[3].key]

    Path(images[3].path).write_bytes(whole)
    build(tmp_path / "cache", encoder, images)
    cache = FeatureCache(tmp_path / "cache")
    assert images[3].key in cache
    assert set(cache.unreadable) == {missing.key}


def test_a_folder_belongs_to_one_encoder_and_size(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    build(tmp_path / "cache", encoder, images[:1])
    name = encoder.config.name
    other = VisionEncoder(VisionConfig(name, default_preprocess(name, (96, 96))))
    other.load_state_dict(encoder.state_dict())
    assert fingerprint(other) != fingerprint(encoder)
    with pytest.raises(DataError, match="another encoder or image size"):
        build(tmp_path / "cache", other, images[:1])


def test_values_beyond_half_precision_are_refused(
    tmp_path: Path, encoder: VisionEncoder, images: list[ImageRef]
) -> None:
    class Loud(VisionEncoder):
        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
            patches, grid = super().forward(pixels)
            return patches + 1e6, grid

    with pytest.raises(DataError, match="half precision cannot hold"):
        build(tmp_path / "cache", Loud(encoder.config), images[:1])
