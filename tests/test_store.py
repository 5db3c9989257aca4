from __future__ import annotations

import copy
import json
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vlm
from vlm.weights.store import CheckpointError, load_checkpoint, save_checkpoint

FILES = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A checkpoint of the test's own to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_part(file: Path, part: str, **changes) -> None:
    edit(file, **{part: {**json.loads(file.read_text())[part], **changes}})


def test_round_trip_keeps_everything(tiny, tiny_checkpoint):
    model, tokenizer = load_checkpoint(tiny_checkpoint)
    assert model.config == tiny.model.config
    saved, loaded = tiny.model.state_dict(), model.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert not model.training
    text = "a brown dog's 12 naïve 🐕"
    assert tokenizer.encode(text) == tiny.tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.end == tiny.tokenizer.end


def test_half_precision_halves_the_file_and_loads_as_float32(tiny, tiny_checkpoint, tmp_path):
    save_checkpoint(tmp_path, tiny.model, tiny.tokenizer, torch.float16)
    sizes = [(f / "model.safetensors").stat().st_size for f in (tmp_path, tiny_checkpoint)]
    assert sizes[0] < 0.6 * sizes[1]
    model, _ = load_checkpoint(tmp_path)
    for name, weight in model.state_dict().items():
        expected = tiny.model.state_dict()[name]
        assert weight.dtype == expected.dtype
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=1e-3)


def test_saving_replaces_what_is_there(tiny, folder):
    (folder / "README.md").write_text("the model card")
    save_checkpoint(folder, tiny.model, tiny.tokenizer)
    load_checkpoint(folder)
    assert (folder / "README.md").read_text() == "the model card"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_an_error(folder, name, share):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert_one_sentence(caught.value, folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0 a photo", b"[]", b"[1]", b"null", b'"text"'])
def test_a_foreign_file_is_an_error(folder, name, data):
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert_one_sentence(caught.value, folder)


@pytest.mark.parametrize("version", [None, 0, 3, "1"])
def test_another_format_version_is_refused(folder, version):
    edit(folder / "config.json", format_version=version)
    with pytest.raises(CheckpointError, match="format_version"):
        load_checkpoint(folder)


def test_a_configuration_of_another_library_is_refused(folder):
    foreign = {"model_type": "blip", "architectures": ["BlipForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(foreign))
    with pytest.raises(CheckpointError, match=r"family blip: vlm convert .* makes one of ours"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("decoder", {"widht": 32}, "decoder.widht"),
        ("decoder", {"heads": 5}, "heads"),
        ("decoder", {"heads": 0}, None),
        ("decoder", {"width": "wide"}, None),
        ("decoder", {"depth": 1.5}, None),
        ("vision", {"name": "no_such_encoder"}, "no_such_encoder"),
        ("vision", {"preprocess": {"size": [96, 96]}}, "preprocess"),
        ("text", {"end": "<no such token>"}, "<no such token>"),
    ],
)
def test_an_impossible_configuration_is_an_error(folder, part, changes, says):
    edit_part(folder / "config.json", part, **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(folder)
    assert_one_sentence(caught.value, folder)


def test_every_weight_must_be_in_its_place(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "decoder.token_embedding.weight"
    wrong = {
        "missing": {k: v for k, v in weights.items() if k != name},
        "one too many": {**weights, "decoder.extra.weight": torch.zeros(1)},
        "another shape": {**weights, name: weights[name][:-1].clone()},
    }
    for changed in wrong.values():
        save_file(changed, file)
        with pytest.raises(CheckpointError, match=r"decoder\.(token_embedding|extra)") as caught:
            load_checkpoint(folder)
        assert_one_sentence(caught.value, folder)


WRAPPERS = ["module", "_orig_mod", "model", "ema", "_orig_mod.module", "module._orig_mod", "a.b.c"]


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_what_a_wrapper_puts_before_every_name_is_taken_off(tiny, folder, prefix):
    file = folder / "model.safetensors"
    weights = {f"{prefix}.{name}": tensor for name, tensor in load_file(file).items()}
    save_file({**weights, "n_averaged": torch.tensor(3)}, file)  # as torch's AveragedModel counts
    model, _ = load_checkpoint(folder)
    expected = tiny.model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("inside", ["_orig_mod", "_fsdp_wrapped_module"])
def test_what_a_wrapper_puts_inside_names_is_taken_off(tiny, folder, inside):
    """As of a model whose parts were compiled one by one."""
    file = folder / "model.safetensors"
    weights = {
        name.replace("decoder.sublayers", f"decoder.{inside}.sublayers"): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(weights, file)
    assert load_checkpoint(folder)[0].config == tiny.model.config
    save_file({**weights, "decoder.sublayers.0.norm.weight": torch.zeros(32)}, file)
    with pytest.raises(CheckpointError, match=r"sublayers\.0\.norm\.weight, which are the same"):
        load_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["decoder.token_embedding.weight", "vision.trunk.conv_stem.weight", "adapter.norm.bias"]
)
def test_a_weight_that_is_not_finite_is_named(folder, name, dtype, value):
    file = folder / "model.safetensors"
    weights = {key: tensor.to(dtype) for key, tensor in load_file(file).items()}
    weights[name].view(-1)[-1] = value
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=f"NaN or infinity in {name}") as caught:
        load_checkpoint(folder)
    assert_one_sentence(caught.value, folder)


def test_a_weight_of_another_kind_is_named(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "decoder.token_embedding.weight"
    save_file({**weights, name: weights[name].to(torch.int8)}, file)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_a_value_beyond_half_precision_is_kept(tiny, tmp_path):
    model = copy.deepcopy(tiny.model)
    with torch.no_grad():
        model.decoder.token_embedding.weight[0, 0] = 1e6
    save_checkpoint(tmp_path, model, tiny.tokenizer, torch.float16)
    assert load_checkpoint(tmp_path)[0].decoder.token_embedding.weight[0, 0] == 1e6


def test_loading_leaves_the_chances_of_others_as_they_were(tiny_checkpoint):
    """A model under construction draws weights; who loads one has a seed of their own."""
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    vlm.load(tiny_checkpoint)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_tokenizer_of_another_model_is_refused(tiny, folder):
    edit_part(folder / "config.json", "decoder", vocab_size=tiny.tokenizer.vocab_size - 1)
    weights = load_file(folder / "model.safetensors")
    name = "decoder.token_embedding.weight"
    save_file({**weights, name: weights[name][:-1].clone()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="vocab"):
        load_checkpoint(folder)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_a_pickle_is_never_opened(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()  # so the bomb works
    Path("exploded").unlink()
    for name in ("model.safetensors", "pytorch_model.bin", "model.pt"):
        torch.save({"decoder.weight": Bomb()}, folder / name)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_checkpoint(folder)
    assert not Path("exploded").exists()


def assert_one_sentence(error: CheckpointError, folder: Path) -> None:
    """It says which checkpoint, and fits on a line or two."""
    assert str(folder) in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400
