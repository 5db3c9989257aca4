from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import vlm
from vlm.cli import app
from vlm.runtimes.onnx_export import export
from vlm.weights.store import load_checkpoint

onnxruntime = pytest.importorskip("onnxruntime")
EXAMPLE = Path(__file__).resolve().parent.parent / "docs" / "caption_with_onnx.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("caption_with_onnx", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_captions_as_the_bundled_model_does(tmp_path, example):
    captioner = vlm.load()
    result = CliRunner().invoke(app, ["export", "--onnx", str(tmp_path / "onnx")])
    assert result.exit_code == 0, result.output
    for photo in sorted((EXAMPLE.parents[1] / "assets" / "examples").glob("*.jpg")):
        expected = captioner.encode(photo).caption(beams=1).text
        assert example.caption(tmp_path / "onnx", str(photo)) == expected


def test_logits_of_several_rows_equal_the_models(tiny_checkpoint, tmp_path):
    model, tokenizer = load_checkpoint(tiny_checkpoint)
    export(model, tokenizer, tmp_path)
    encoder = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    step = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    keys, values, mask = encoder.run(None, {"pixels": pixels.numpy()})
    ids = torch.tensor([[2, 300, 301, 302], [2, 310, 300, 320], [2, 305, 305, 305]])
    with torch.inference_mode():
        hidden = model.decoder(ids, model.project(model.encode(pixels))).hidden
        expected = model.decoder.logits(hidden).numpy()
    past = {"past_keys": np.zeros((2, 3, 4, 0, 8), np.float32)}
    past["past_values"] = past["past_keys"]
    for position in range(ids.shape[1]):
        token = {"ids": ids[:, position : position + 1].numpy(), "position": np.array([position])}
        logits, *grown = step.run(
            None, token | {"keys": keys, "values": values, "mask": mask} | past
        )
        past = dict(zip(("past_keys", "past_values"), grown))
        np.testing.assert_allclose(logits, expected[:, position], atol=1e-3)


def test_a_folder_with_files_is_not_written_over(tiny_checkpoint, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(
        app, ["export", "--onnx", str(tmp_path), "--model", str(tiny_checkpoint)]
    )
    assert result.exit_code == 2
    assert "is not empty" in result.output
