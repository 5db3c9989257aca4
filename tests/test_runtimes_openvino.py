"""OpenVINO computes what torch computes, and int8 nearly so."""

from __future__ import annotations

import builtins
import copy
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import vlm
from app import main
from benchmarks import coca, peers
from vlm.captioner import Captioner
from vlm.cli import app
from vlm.errors import how_to_install
from vlm.model.vision import VisionEncoder, folded
from vlm.runtimes import openvino
from vlm.runtimes.openvino import BackendError, Compiled, CompiledVision, quantise
from vlm.weights.store import load_checkpoint

QUESTIONS = ["what is it?", "how many dogs are on the grass?", "why?"]
FAMILIES: dict[str, Callable[[Path], object]] = {
    "blip": lambda folder: peers.blip(folder, tiny=True),
    "blip-vqa": lambda folder: peers.blip(folder, tiny=True, answers=True),
    "vit-gpt2": lambda folder: peers.vit_gpt2(folder, tiny=True),
    "coca": lambda folder: coca.build(folder, tiny=True),
}


@pytest.fixture
def photos() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (40 + i, 60, 3), dtype=np.uint8) for i in range(3)]


@pytest.fixture(scope="module")
def compiled(tiny_checkpoint) -> Captioner:
    return vlm.load(tiny_checkpoint, openvino=True)


@pytest.fixture(scope="module")
def int8(tiny_checkpoint) -> Captioner:
    return vlm.load(tiny_checkpoint, openvino=True, precision="int8")


def assert_same(expected: vlm.Answer, answer: vlm.Answer) -> None:
    assert answer.ids == expected.ids
    assert answer.score == pytest.approx(expected.score, abs=1e-4)
    looks = (seen.maps(method="attention") for seen in (answer, expected))
    for ours, theirs in zip(*looks, strict=True):
        np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-4)
    # Its graphs show no layers, so no logit; a map says what made it.
    assert {word.method for word in answer.maps()} == {"attention"}


def test_it_writes_answers_and_explains_the_same(tiny, compiled, photos):
    plain, fast = tiny.encode(photos[0]), compiled.encode(photos[0])
    torch.testing.assert_close(fast.memory.tokens, plain.memory.tokens, atol=1e-4, rtol=1e-4)
    for options in ({"beams": 1}, {"beams": 3}, {"sample": True, "seed": 1}):
        assert_same(plain.caption(**options), fast.caption(**options))
    for expected, answer in zip(plain.ask_all(QUESTIONS), fast.ask_all(QUESTIONS), strict=True):
        assert_same(expected, answer)
    assert_same(plain.explain("two dogs"), fast.explain("two dogs"))


@pytest.mark.parametrize("family", FAMILIES)
def test_other_libraries_models_write_the_same(family, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / family
    FAMILIES[family](folder)
    plain, fast = vlm.load(folder), vlm.load(folder, openvino=True)
    if family == "blip-vqa":
        questions = peers.QUESTIONS[:3]
        both = [model.encode(photos[0]).ask_all(questions) for model in (plain, fast)]
    else:
        both = [model.caption(photos, beams=3) for model in (plain, fast)]
    for expected, answer in zip(*both, strict=True):
        assert_same(expected, answer)


@pytest.mark.parametrize(
    "options", [{"openvino": True}, {"openvino": True, "precision": "int8"}], ids=str
)
def test_batch_equals_single(tiny_checkpoint, compiled, int8, options, photos):
    model = int8 if "precision" in options else compiled
    together = model.caption(photos, beams=3)
    for photo, answer in zip(photos, together, strict=True):
        assert_same(model.encode(photo).caption(beams=3), answer)
    image = model.encode(photos[0])
    for question, answer in zip(QUESTIONS, image.ask_all(QUESTIONS), strict=True):
        assert_same(image.ask(question), answer)


def test_requests_of_several_threads_do_not_mix(compiled, photos):
    def caption(i: int) -> vlm.Answer:
        return compiled.encode(photos[i % 3]).caption(beams=1 + i % 2)

    expected = [caption(i) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        for i, answer in enumerate(pool.map(caption, [i % 6 for i in range(36)])):
            assert answer.ids == expected[i % 6].ids
            assert answer.score == pytest.approx(expected[i % 6].score, abs=1e-5)


@pytest.mark.parametrize(
    "name",
    ["test_vit3", "swin_tiny_patch4_window7_224", "convnext_atto", "beit_base_patch16_224",
     "resnet18", "tf_efficientnet_lite0"],
)  # fmt: skip
@torch.no_grad()
def test_every_encoder_gives_the_same_patches(name, tiny):
    size = (224, 224) if "224" in name else (64, 96)
    config = replace(tiny.model.config.vision, name=name)
    config = replace(config, preprocess=replace(config.preprocess, size=size))
    encoder = folded(VisionEncoder(config).eval())
    compiled = CompiledVision(encoder, int8=False)
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, *size)
        (expected, grid), (patches, its_grid) = encoder(pixels), compiled(pixels)
        torch.testing.assert_close(patches, expected, atol=1e-3, rtol=1e-3)
        assert grid == its_grid


def test_quantised_rows_are_within_half_a_step():
    weight = torch.randn(10, 30)
    weight[3] = 0
    rows, scale = quantise(weight)
    assert ((rows * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()


@torch.no_grad()
def test_int8_layers_compute_with_the_quantised_weights():
    linear, table = torch.nn.Linear(64, 48), torch.nn.Embedding(20, 64)
    rows, scale = quantise(linear.weight)
    entries, steps = quantise(table.weight)
    ids = torch.tensor([[3, 7, 3], [0, 19, 1]])
    layers = torch.nn.ModuleList([linear, table])
    compiled = Compiled(layers, lambda x: linear(table(x)), [ids[:, :2]], [[-1, -1]], int8=True)
    found = compiled([ids])[0]
    expected = (entries * steps[:, None])[ids] @ (rows * scale[:, None]).T + linear.bias
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, linear(table(ids)), atol=1e-4)


def test_tags_are_the_same_words(tiny_tagged):
    pixels = torch.randn(2, 3, *tiny_tagged.config.vision.preprocess.size)
    with torch.inference_mode():
        expected, found = tiny_tagged.encode(pixels), openvino.compiled(tiny_tagged).encode(pixels)
    assert found.segments == expected.segments
    assert torch.equal(found.real, expected.real)
    torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize("int8", [False, True])
def test_the_weights_of_torch_are_let_go(tiny_checkpoint, tiny_tagged, tags, int8):
    model = copy.deepcopy(tiny_tagged) if tags else load_checkpoint(tiny_checkpoint)[0]
    weights = [
        weakref.ref(part) for part in (model.decoder, model.vision, *model.decoder.children())
    ]
    model = openvino.compiled(model, int8)
    assert [part() for part in weights] == [None] * len(weights)


def test_int8_is_close(tiny, int8, photos):
    for photo in photos:
        text = tiny.encode(photo).caption(beams=1).text
        expected, found = (model.encode(photo).explain(text) for model in (tiny, int8))
        assert found.score == pytest.approx(expected.score, abs=0.1)
        assert found.score != expected.score


HANDLE_A_SIGNAL = """
import signal, subprocess, torch
from vlm.runtimes.openvino import Compiled

def compiled():
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    return Compiled(layer, layer.forward, [torch.ones(3, 4)], [[-1, 4]], False)

first, second = compiled(), compiled()
del first
del second
received = []
signal.signal(signal.SIGCHLD, lambda *_: received.append("a child ended"))
subprocess.run(["true"])
print(*received)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_signals_are_handled_after_models_have_gone():
    command = [sys.executable, "-c", HANDLE_A_SIGNAL]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "a child ended\n"), result.stderr


def test_an_operation_that_openvino_lacks_is_named():
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    with pytest.raises(BackendError, match=r"cannot run this model: .*aten::linalg_qr"):
        Compiled(
            layer, lambda x: torch.linalg.qr(layer(x))[0], [torch.ones(3, 4)], [[-1, 4]], False
        )


def test_it_is_refused_where_it_is_not_to_be_had(tiny_checkpoint, tmp_path, monkeypatch):
    with pytest.raises(BackendError, match="on the CPU here, not on cuda"):
        vlm.load(tiny_checkpoint, device="cuda", openvino=True)
    found = builtins.__import__

    def without(name, *rest, **keywords):
        if name.startswith("openvino"):
            raise ImportError(name)
        return found(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    photo = str(Path(__file__).parents[1] / "assets/examples/dog.jpg")
    serve = typer.Typer()
    serve.command()(main)
    for command, arguments in (
        (app, ["caption", photo]),
        (app, ["ask", photo, "why?"]),
        (app, ["explain", photo, "--json"]),
        (app, ["caption-dataset", photo, str(tmp_path)]),
        (serve, []),
    ):
        options = ["--model", str(tiny_checkpoint), "--openvino"]
        result = CliRunner().invoke(command, [*arguments, *options])
        assert result.exit_code == 2
        assert how_to_install("openvino") in result.output
