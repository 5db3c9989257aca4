"""A checkpoint's name, a device and a runtime to a captioner."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import vlm
from vlm.loading import DeviceError, find_device
from vlm.model.model import VisionLanguageModel
from vlm.runtimes import Runtime, TextDecoder
from vlm.runtimes.openvino import BackendError

PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("options", [{}, {"gradients": True}, {"openvino": True}])
def test_whatever_runs_a_model_answers_to_the_protocol(tiny_checkpoint, options):
    model = vlm.load(tiny_checkpoint, **options).model
    assert isinstance(model, Runtime)
    assert isinstance(model.decoder, TextDecoder)


def test_gradients_reach_the_pixels_where_they_are_asked_for(tiny_checkpoint):
    captioner = vlm.load(tiny_checkpoint, gradients=True)
    assert isinstance(captioner.model, VisionLanguageModel)
    pixels = captioner.preprocess(captioner.encode(PHOTO).picture)[0][None].requires_grad_()
    projected = captioner.model.project(captioner.model.encode(pixels))
    decoded = captioner.model.decoder(torch.tensor([captioner.prompt(None).ids]), projected)
    captioner.model.decoder.logits(decoded.hidden)[0, -1, 300].backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    packed = vlm.load(tiny_checkpoint).encode(PHOTO).caption(max_tokens=5)
    assert captioner.encode(PHOTO).caption(max_tokens=5).text == packed.text


def test_openvino_has_no_gradients(tiny_checkpoint):
    with pytest.raises(BackendError, match="no gradients"):
        vlm.load(tiny_checkpoint, openvino=True, gradients=True)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cpu:0", "CPU", ""])
def test_a_device_that_is_not_there_is_named(tiny_checkpoint, name):
    with pytest.raises(DeviceError, match=r"there is no device .* give auto or one of cpu"):
        vlm.load(tiny_checkpoint, device=name)


def test_auto_is_a_device_that_is_there():
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("options", [{}, {"openvino": True}])
def test_a_loaded_captioner_can_be_copied(tiny_checkpoint, options):
    captioner = vlm.load(tiny_checkpoint, **options)
    twin = copy.deepcopy(captioner)
    assert twin.encode(PHOTO).caption().text == captioner.encode(PHOTO).caption().text
