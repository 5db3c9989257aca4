from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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
    with pytest.raises(CheckpointError, match="format_version"):
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
