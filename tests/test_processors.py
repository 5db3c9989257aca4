"""Every form of transformers' image processors gives the pixels that theirs give, or is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from parity import photos
from transformers import (
    BeitImageProcessorPil,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    DeiTImageProcessorPil,
    ViTImageProcessorPil,
)

from vlm.weights import CheckpointError
from vlm.weights.processors import read_preprocess

SQUARE = {"height": 32, "width": 32}
PROCESSORS = [
    ("ViT", ViTImageProcessorPil, {"size": SQUARE}),
    ("DeiT", DeiTImageProcessorPil, {"size": SQUARE, "crop_size": SQUARE}),
    ("DeiT", DeiTImageProcessorPil, {"size": SQUARE, "do_center_crop": False}),
    ("Beit", BeitImageProcessorPil, {"size": SQUARE}),
    ("Blip", BlipImageProcessorPil, {"size": SQUARE}),
    ("CLIP", CLIPImageProcessorPil, {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
]


@pytest.mark.parametrize(("name", "theirs", "given"), PROCESSORS)
def test_pixels_are_those_of_transformers(tmp_path, name, theirs, given):
    """Also where the file leaves out all that is the class' default, and whatever the family's own class is."""
    processor = theirs(**given)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    for values in (
        json.loads(file.read_text()),
        {"image_processor_type": theirs.__name__, **given},
    ):
        file.write_text(json.dumps(values))
        ours = read_preprocess(tmp_path, (32, 32), kind="Blip" if name == "ViT" else "ViT")
        # Of a crop's margins that are odd, theirs rounds down and ours as torchvision does; see docs/checkpoints.md.
        for photo in photos()[: 2 if name == "CLIP" else None]:
            expected = processor(photo, return_tensors="pt").pixel_values[0]
            atol = 0.05 if name == "CLIP" else 1e-6  # of one grey level
            torch.testing.assert_close(ours(photo)[0], expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "ending", ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor", ""]
)
def test_a_class_goes_by_its_older_and_newer_names(tmp_path, ending):
    values = {"size": 32, "feature_extractor_type": f"Blip{ending}"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    assert read_preprocess(tmp_path, (32, 32), "ViT").mean[0] == 0.48145466


@pytest.mark.parametrize("code", range(6))
def test_every_filter_of_pillow_is_read(tmp_path, code):
    processor = ViTImageProcessorPil(size=SQUARE, resample=code)
    processor.save_pretrained(tmp_path)
    ours = read_preprocess(tmp_path, (32, 32), "ViT")
    expected = processor(photos()[0], return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(ours(photos()[0])[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ({"image_mean": 0.25}, (0.25,) * 3),
        ({"image_mean": [0.25]}, (0.25,) * 3),
        ({"image_mean": [0.1, 0.2, 0.3]}, (0.1, 0.2, 0.3)),
        ({"image_mean": 0}, (0.0,) * 3),
        ({"image_mean": None}, (0.5,) * 3),
        ({}, (0.5,) * 3),
    ],
)
@pytest.mark.parametrize("newer", [False, True])
def test_means_of_every_form_are_read(tmp_path, values, mean, newer):
    values = {"size": 32, **values}
    name = "processor_config.json" if newer else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps({"image_processor": values} if newer else values))
    ours = read_preprocess(tmp_path, (32, 32), "ViT")
    assert ours.mean == mean
    assert ours.std == (0.5,) * 3


@pytest.mark.parametrize(
    ("size", "becomes"),
    [
        (32, (32, 32)),
        ([32], None),
        ([24, 32], (24, 32)),
        ({"height": 24, "width": 32}, (24, 32)),
        ({"shortest_edge": 32}, None),
        ({"shortest_edge": 32, "longest_edge": 64}, None),
        ({"longest_edge": 32}, None),
        ({"max_height": 32, "max_width": 32}, None),
        ({"height": 32}, None),
        ({}, None),
        ("32", None),
        (32.0, None),
        (True, None),
        (0, None),
        ({"height": None, "width": 32}, None),
    ],
)
def test_sizes_of_every_form_are_read_or_named(tmp_path, size, becomes):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    if becomes is not None:
        assert read_preprocess(tmp_path, becomes, "ViT").size == becomes
        return
    with pytest.raises(CheckpointError, match=r"size|shape"):
        read_preprocess(tmp_path, (32, 32), "ViT")


def test_a_number_is_the_shorter_side_where_the_class_has_it_so(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"size": 32, "crop_size": 32}))
    assert read_preprocess(tmp_path, (32, 32), "CLIP").fit == "crop"
    assert read_preprocess(tmp_path, (32, 32), "DeiT").fit == "squash"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"resample": 6}, r"resample 6 is none of Pillow's codes: 0 nearest, 1 lanczos"),
        ({"resample": -1}, "resample -1 is none"),
        ({"resample": "bicubic"}, "resample must be a whole number, not 'bicubic'"),
        ({"resample": True}, "resample must be a whole number, not True"),
        ({"image_mean": [0.5, 0.5]}, "image_mean must have 3 values, not 2"),
        ({"image_mean": [[0.5]]}, r"image_mean\[0\] must be a number"),
        ({"image_mean": "0.5"}, r"image_mean\[0\] must be a number, not '0.5'"),
        ({"image_std": [0.5, 0, 0.5]}, r"image_std\[1\] must be positive"),
        ({"image_std": 0}, r"image_std\[0\] must be positive"),
        ({"do_resize": "no"}, "do_resize must be true or false"),
        ({"do_rescale": False}, "do_rescale is false"),
        ({"rescale_factor": "1/255"}, "rescale_factor must be a number"),
        ({"do_center_crop": True, "crop_size": 24}, "cropped to 24 x 24"),
        ({"image_processor_type": "GLPNImageProcessor"}, "'GLPNImageProcessor' is none of ViT"),
        ({"image_processor_type": 3}, "the image processor 3 is none of"),
    ],
)
def test_what_has_no_equal_is_named(tmp_path, values, named):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32, **values}))
    with pytest.raises(CheckpointError, match=named) as caught:
        read_preprocess(tmp_path, (32, 32), "ViT")
    assert "preprocessor_config.json" in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"image_processor": None}, {"image_processor": 3}])
def test_a_file_without_an_image_processor_is_named(tmp_path, values):
    (tmp_path / "processor_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="image_processor must be a mapping"):
        read_preprocess(tmp_path, (32, 32), "ViT")
