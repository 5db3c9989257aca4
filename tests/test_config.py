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
    ("path", "value", "named"),
    [
        (("format_version",), 99, "format_version"),
        (("extra",), 1, "extra"),
        (("decoder", "wdith"), 1, "decoder.wdith"),
        (("decoder", "heads"), 7, "heads"),
        (("vision",), 3, "vision"),
        (("vision", "name"), "", "vision.name"),
        (("vision", "preprocess", "fit"), "stretch", "fit"),
        (("vision", "options"), "depth=3", "vision.options"),
        (("vision", "prefix"), True, "vision.prefix"),
        (("adapter", "kind"), "glue", "adapter.kind"),
        (("adapter", "kind"), "pool", "adapter.queries"),
        (("reader", "vocab_sise"), 3, "reader.vocab_sise"),
    ],
)
def test_what_does_not_fit_is_named(path, value, named):
    values = json.loads(json.dumps(CONFIG.to_dict()))
    target = values
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises((ConfigError, ValueError), match=named):
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
