from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vlm.images import Preprocess
from vlm.model.config import ConfigError, DecoderConfig, ModelConfig, VisionConfig

CONFIG = ModelConfig(
    VisionConfig("resnet18", Preprocess((64, 96), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
    DecoderConfig(vocab_size=100),
    reader=DecoderConfig(vocab_size=100, causal=False),
    licence="CC0",
)


def test_survives_json():
    values = json.loads(json.dumps(CONFIG.to_dict()))
    assert ModelConfig.from_dict(values) == CONFIG


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("format_version", 99, "config.json has format_version 99; this release reads"),
        ("format_version", True, "config.json has format_version True; this release reads"),
        ("colour", 1, "unknown key colour; known: vision, decoder, text, adapter, reader, tags"),
        ("decoder.wdith", 1, r"unknown key decoder.wdith; did you mean width\?"),
        ("reader.vocab_sise", 3, r"unknown key reader.vocab_sise; did you mean vocab_size\?"),
        ("decoder.heads", 7, "decoder.width 256 is not a multiple of heads 7"),
        ("decoder.heads", 0, "decoder.heads must be at least 1, not 0"),
        ("decoder.width", "256", "decoder.width must be a whole number, not '256'"),
        ("decoder.width", 256.0, "decoder.width must be a whole number, not 256.0"),
        ("decoder.width", -8, "decoder.width must be at least 1, not -8"),
        ("decoder.depth", True, "decoder.depth must be a whole number, not True"),
        ("decoder.depth", 10**9, "decoder.depth must be from 1 to 1,000, not 1000000000"),
        ("decoder.prenorm", "false", "decoder.prenorm must be true or false, not 'false'"),
        ("decoder.prenorm", 0, "decoder.prenorm must be true or false, not 0"),
        ("reader.causal", "no", "reader.causal must be true or false, not 'no'"),
        ("decoder.norm_eps", -1, "decoder.norm_eps must be positive and finite, not -1"),
        ("decoder.norm_eps", "1e-5", "decoder.norm_eps must be a number, not '1e-5'"),
        ("decoder.mlp_ratio", 0, "decoder.mlp_ratio must be positive and finite, not 0"),
        ("decoder.mlp_ratio", 1e-9, "decoder.mlp_ratio 1e-09 of width 256 leaves no channel"),
        ("decoder.embedding_scale", float("inf"), "decoder.embedding_scale must be finite"),
        ("decoder.dropout", float("nan"), "decoder.dropout must be a number, not nan"),
        ("decoder.activation", "swish", "decoder.activation must be one of gelu, gelu_tanh"),
        ("decoder.pattern", "sxm", "decoder.pattern must be made of the letters s, c and m"),
        ("decoder", None, "decoder must be a mapping, not None"),
        ("vision", 3, "vision must be a mapping, not 3"),
        ("calibration.answers", 0, "calibration.answers must be positive and finite, not 0"),
        ("calibration.answer", 2, r"unknown key calibration.answer; did you mean answers\?"),
        ("calibration", None, "calibration must be a mapping, not None"),
        ("vision.name", "", "vision.name must be the name of a timm model, not ''"),
        ("vision.norm_eps", 0, "vision.norm_eps must be positive and finite, not 0"),
        ("vision.options", "depth=3", "vision.options must be a mapping"),
        ("vision.prefix", True, "vision.prefix keeps tokens"),
        ("vision.preprocess.fit", "stretch", "vision.preprocess.fit must be one of squash, crop"),
        ("vision.preprocess.size", [64], "vision.preprocess.size must have 2 values, not 1"),
        ("vision.preprocess.size", 64, "vision.preprocess.size must be a list, not 64"),
        (
            "vision.preprocess.size",
            [64, 0],
            r"vision.preprocess.size\[1\] must be from 1 to 10,000",
        ),
        ("vision.preprocess.mean", [0, 0, float("nan")], r"preprocess.mean\[2\] must be a number"),
        ("vision.preprocess.std", [1, 0, 1], r"preprocess.std\[1\] must be positive and finite"),
        ("adapter.kind", "glue", "adapter.kind must be one of grid, linear, none, pool"),
        ("adapter.kind", "pool", "adapter.queries must be positive for kind pool, not 0"),
        ("adapter.heads", 2, "adapter.heads must be 0 for kind grid, not 2"),
        (
            "adapter",
            {"kind": "pool", "queries": 4, "heads": 5},
            "memory_width 256 is not a multiple",
        ),
        ("decoder.alignment_heads", [[0]], r"alignment_heads\[0\] must have 2 values"),
        ("decoder.alignment_heads", [[9, 0]], "layer 9, head 0, which is not there"),
        ("decoder.alignment_heads", [[0, 8]], "layer 0, head 8, which is not there"),
        ("tasks", "captioning", "tasks must be a list, not 'captioning'"),
        (
            "tasks",
            ["captioning"],
            r"tasks\[0\] must be one of caption, vqa, locate, not 'captioning'",
        ),
        ("tasks", [], "tasks must be at least one task"),
        ("tasks", ["vqa", "vqa"], "tasks must be at least one task, each once"),
        ("text.end", None, "text.end must be text, not None"),
        ("text.question", "", "text.question and text.answer begin and end a question"),
        ("licence", 3, "licence must be text, not 3"),
    ],
)
def test_what_does_not_fit_is_named(path, value, says):
    values = json.loads(json.dumps(CONFIG.to_dict()))
    *parents, last = path.split(".")
    target = values
    for key in parents:
        target = target[key]
    target[last] = value
    with pytest.raises(ConfigError, match=says):
        ModelConfig.from_dict(values)


def test_keys_that_came_later_are_the_native_models():
    """The configuration of a model from before there were other families."""
    values = json.loads(json.dumps(replace(CONFIG, reader=None).to_dict()))
    for name in ("adapter", "reader"):
        del values[name]
    for name in ("options", "norm_eps", "prefix"):
        del values["vision"][name]
    for name in ("text_layers", "causal", "embedding_norm", "embedding_scale", "memory_norm"):
        del values["decoder"][name]
    for name in ("tied", "head_transform", "head_bias"):
        del values["decoder"][name]
    del values["text"]["prompt"]
    assert ModelConfig.from_dict(values) == replace(CONFIG, reader=None)


def test_a_reader_must_fit_the_decoder():
    with pytest.raises(ConfigError, match=r"reader\.width"):
        replace(CONFIG, reader=DecoderConfig(vocab_size=100, width=64))


def test_a_missing_key_is_named():
    values = CONFIG.to_dict()
    del values["decoder"]
    with pytest.raises(ConfigError, match="decoder"):
        ModelConfig.from_dict(values)


def test_a_checkpoint_of_before_calibration_tells_its_own_probabilities():
    values = CONFIG.to_dict()
    del values["calibration"]
    calibration = ModelConfig.from_dict(values).calibration
    assert (calibration.answers, calibration.captions) == (1, 1)
