from __future__ import annotations

import json

import pytest

from vlm.config import ConfigError, DecoderConfig, ModelConfig, VisionConfig
from vlm.images import Preprocess

CONFIG = ModelConfig(
    VisionConfig("resnet18", Preprocess((64, 96), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
    DecoderConfig(vocab_size=100),
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


def test_a_missing_key_is_named():
    values = CONFIG.to_dict()
    del values["decoder"]
    with pytest.raises(ConfigError, match="decoder"):
        ModelConfig.from_dict(values)
