"""What a checkpoint's folder is of is told in one way, and what none of ours reads is named with what is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import vlm
from vlm.cli import app
from vlm.weights import CheckpointError, vision_encoder_decoder
from vlm.weights.convert import FAMILIES
from vlm.weights.families import DECODERS, Family, recognise
from vlm.weights.hub import available

MARIAN = {"encoder": {"model_type": "dinov2"}, "decoder": {"model_type": "marian"}}
VED = "VisionEncoderDecoderModel"
OTHERS = [
    # a file of the folder, what it holds, and what the message calls it
    ("config.json", {"architectures": ["Kosmos2ForConditionalGeneration"]}, "Kosmos2For"),
    ("config.json", {"model_type": "llava", "architectures": ["LlavaForX"]}, "LlavaForX"),
    ("config.json", {"model_type": "paligemma"}, "paligemma"),
    ("config.json", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHead"),
    ("config.json", {"model_type": "blip-2", "architectures": ["Blip2For"]}, "Blip2For"),
    ("config.json", {"architectures": [VED], **MARIAN}, "whose encoder is dinov2 and not vit"),
    ("config.json", {"architecture": "resnet18", "pretrained_cfg": {}}, "timm's encoder resnet18"),
    ("config.json", {"model_type": ["llava"], "architectures": {"a": 1}}, "llava"),
    ("open_clip_config.json", {"model_cfg": {"embed_dim": 512}}, "open_clip's CLIP"),
    ("adapter_config.json", {"base_model_name_or_path": "a/b"}, "an adapter of a/b"),
    ("model_index.json", {"_class_name": "StableDiffusion"}, "diffusers' StableDiffusion"),
]


@pytest.mark.parametrize(("file", "values", "named"), OTHERS)
def test_another_family_is_told_which_are_read(tmp_path, file, values, named):
    (tmp_path / file).write_text(json.dumps(values))
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        vlm.load(tmp_path)
    converted = CliRunner().invoke(app, ["convert", str(tmp_path), str(tmp_path / "out")])
    assert converted.exit_code == 2
    for message in (str(caught.value), converted.output):
        assert str(tmp_path) in message
        assert named in message
        for family in FAMILIES:
            assert family in message


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"architectures": ["BlipForConditionalGeneration"]}, Family("blip", ("caption",))),
        ({"architectures": ["BlipForQuestionAnswering"]}, Family("blip", ("vqa",))),
        ({"architectures": [VED]}, Family("vision-encoder-decoder", ("caption",))),
        ({"model_type": "vision-encoder-decoder"}, Family("vision-encoder-decoder", ("caption",))),
        ({"model_type": "blip", "architectures": ["MyOwnBlip"]}, Family("blip", ("caption",))),
        (
            {"model_type": "florence2", "architectures": ["Florence2ForConditionalGeneration"]},
            Family("florence-2", ("caption", "vqa", "locate")),
        ),
        ({"format_version": 1, "model_type": "llava"}, None),
        ({"decoder": {}}, None),  # ours, damaged
    ],
)
def test_what_importers_read_is_recognised(tmp_path, config, family):
    (tmp_path / "config.json").write_text("\ufeff" + json.dumps(config), encoding="utf-8")
    save_file({"text_decoder.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert recognise(tmp_path) == family


def test_a_class_that_is_unknown_is_told_by_its_tensors(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "blip", "architectures": ["Mine"]}')
    index = {"weight_map": {"text_decoder.a": "1", "text_encoder.b": "2"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert recognise(tmp_path) == Family("blip", ("vqa",))
    index = {"weight_map": {"text_encoder.b": "2"}}  # retrieval, which writes nothing
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="transformers' Mine"):
        recognise(tmp_path)


@pytest.mark.parametrize("damaged", ["", "[1]", '{"a": ', "[" * 100_000])
def test_a_damaged_configuration_is_of_no_family(tiny_checkpoint, tmp_path, damaged, monkeypatch):
    shutil.copytree(tiny_checkpoint, tmp_path / "small")
    (tmp_path / "small" / "config.json").write_text(damaged)
    assert recognise(tmp_path / "small") is None
    with pytest.raises(CheckpointError, match=r"config\.json"):
        vlm.load(tmp_path / "small")
    monkeypatch.setattr("vlm.weights.hub.bundled_folder", lambda: tmp_path)
    assert "small" not in {entry.name for entry in available()}


def test_a_folder_of_nothing_is_of_no_family(tmp_path):
    assert recognise(tmp_path) is None
    assert recognise(Path("no such folder")) is None
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        vlm.load(tmp_path)


def test_the_decoders_that_are_recognised_have_a_reader():
    assert tuple(vision_encoder_decoder._DECODERS) == DECODERS
