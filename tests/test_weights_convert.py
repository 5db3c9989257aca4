from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from parity import bert_vocabulary, photos, randomise
from safetensors.torch import load_file, save_file
from test_hub import cached
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)
from typer.testing import CliRunner

import vlm
from vlm.cli import app
from vlm.weights import CheckpointError, convert
from vlm.weights.convert import read_foreign
from vlm.weights.store import load_checkpoint
from vlm.weights.tables import From, module, stacked, translate


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """A tiny BLIP captioner in the hub's format."""
    folder = tmp_path_factory.mktemp("hub") / "blip"
    size = len(bert_vocabulary())
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    small["num_attention_heads"] = 2
    model = BlipForConditionalGeneration(
        BlipConfig(
            vision_config={**small, "image_size": 32, "patch_size": 16},
            text_config={**small, "vocab_size": size + 2, "bos_token_id": size, "sep_token_id": 3},
        )
    )
    randomise(model)
    model.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(bert_vocabulary())).save_pretrained(folder)
    return folder


@pytest.fixture
def own(blip, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(blip, tmp_path / "own"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_load_converts_once(blip, monkeypatch):
    answer = vlm.load(blip).encode(photos()[0]).caption(max_tokens=6)
    monkeypatch.setattr(convert, "read_foreign", lambda source: pytest.fail("converted again"))
    again = vlm.load(str(blip)).encode(photos()[0]).caption(max_tokens=6)
    assert answer.ids == again.ids
    assert len(answer.maps()) == len(answer.words)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_hub_id_is_converted_from_the_hubs_cache_without_network(
    own, cache, tmp_path, monkeypatch, pickled
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    expected = read_foreign(own)[0].state_dict()
    if pickled:
        torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
        (own / "model.safetensors").unlink()
    (tmp_path / "hub").mkdir()
    cached(tmp_path / "hub", "someone/blip", own)
    vlm.load("someone/blip")
    (converted,) = (cache / "vlm" / "converted").iterdir()
    actual = load_checkpoint(converted)[0].state_dict()  # what is loaded is laid out for inference
    assert actual.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in actual.items())


def test_load_converts_anew_what_has_changed(own, cache):
    vlm.load(own)
    weights = load_file(own / "model.safetensors")
    name = "text_decoder.cls.predictions.bias"
    save_file({**weights, name: weights[name] + 1}, own / "model.safetensors", {"format": "pt"})
    (old,) = (cache / "vlm" / "converted").iterdir()
    vlm.load(own)
    (new,) = (cache / "vlm" / "converted").iterdir()  # nothing asks for the old one again
    assert old != new


def test_an_interrupted_conversion_leaves_nothing(own, cache):
    (own / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        vlm.load(own)
    assert list((cache / "vlm" / "converted").iterdir()) == []


def test_the_command_writes_a_checkpoint_folder(blip, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["convert", str(blip), str(out)])
    assert result.exit_code == 0, result.output
    model, _ = load_checkpoint(out)
    expected = read_foreign(blip)[0].state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    again = CliRunner().invoke(app, ["convert", str(blip), str(out)])
    assert again.exit_code == 2
    assert "not empty" in again.output


def test_the_command_says_what_it_cannot_convert(tiny_checkpoint, tmp_path):
    result = CliRunner().invoke(app, ["convert", str(tiny_checkpoint), str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "blip" in result.output


def test_older_pickled_weights_give_the_same_model(own):
    expected = read_foreign(own)[0].state_dict()
    torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
    (own / "model.safetensors").unlink()
    actual = read_foreign(own)[0].state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in actual.items())


def test_the_weights_of_a_trainings_checkpoint_are_found(own):
    expected = read_foreign(own)[0].state_dict()
    weights = load_file(own / "model.safetensors")
    (own / "model.safetensors").unlink()
    torch.save({"epoch": 3, "state_dict": weights}, own / "pytorch_model.bin")
    actual = read_foreign(own)[0].state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in actual.items())
    for saved in ({"epoch": 3}, [1, 2], {"state_dict": 1}):
        torch.save(saved, own / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="not a mapping of names to tensors"):
            read_foreign(own)


def test_the_bias_of_the_output_layer_is_what_counts(own):
    """transformers computes with it, and reads it where the file has both."""
    head = "text_decoder.cls.predictions"
    weights = load_file(own / "model.safetensors")
    other = torch.randn_like(weights[f"{head}.bias"])
    for biases in (
        {f"{head}.bias": other},
        {f"{head}.decoder.bias": other},
        {f"{head}.bias": other + 1, f"{head}.decoder.bias": other},
    ):
        rest = {k: v for k, v in weights.items() if not k.endswith("predictions.bias")}
        save_file(rest | biases, own / "model.safetensors", {"format": "pt"})
        assert torch.equal(read_foreign(own)[0].decoder.head_bias, other)


@pytest.mark.parametrize("prefix", ["module", "_orig_mod", "model", "ema", "module._orig_mod"])
@pytest.mark.parametrize("pickled", [False, True])
def test_what_a_wrapper_puts_before_every_name_is_taken_off(own, prefix, pickled):
    expected = read_foreign(own)[0].state_dict()
    weights = load_file(own / "model.safetensors")
    wrapped = {f"{prefix}.{name}": tensor for name, tensor in weights.items()}
    if pickled:
        (own / "model.safetensors").unlink()
        torch.save({"model": wrapped, "epoch": 3}, own / "pytorch_model.bin")
    else:
        save_file(wrapped, own / "model.safetensors", {"format": "pt"})
    actual = read_foreign(own)[0].state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in actual.items())


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize(
    ("name", "tied"),
    [
        ("text_decoder.bert.embeddings.word_embeddings.weight", True),
        ("text_decoder.cls.predictions.decoder.weight", True),  # written beside what it is tied to
        ("vision_model.post_layernorm.bias", False),
        ("text_decoder.cls.predictions.bias", False),
    ],
)
def test_a_weight_that_is_not_finite_is_named(own, name, tied, value):
    file = own / "model.safetensors"
    weights = load_file(file)
    output = "text_decoder.cls.predictions.decoder"
    embeddings = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
    weights |= {f"{output}.weight": embeddings.clone()} if tied else {}
    weights.pop(f"{output}.bias", None)
    weights[name] = weights[name].half()
    weights[name].view(-1)[0] = value
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"NaN or infinity in {name}"):
        read_foreign(own)


def test_what_is_dropped_may_be_infinite(own):
    """Masks that are made anew."""
    file = own / "model.safetensors"
    ids = torch.full((1, 4), float("-inf"))
    save_file({**load_file(file), "text_decoder.x.position_ids": ids}, file, {"format": "pt"})
    read_foreign(own)


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("text_config", {"hidden_size": "16"}, "text_config.hidden_size must be a whole number"),
        ("text_config", {"layer_norm_eps": True}, "text_config.layer_norm_eps must be a number"),
        ("text_config", {"num_attention_heads": 3}, "width 16 is not a multiple of heads 3"),
        ("text_config", {"hidden_size": 0}, "the configuration describes no model"),
        ("vision_config", {"image_size": "32"}, r"vision_config.image_size\[0\] must be a whole"),
        ("vision_config", {"image_size": [32, 0]}, r"vision_config.image_size\[1\] must be from 1"),
        ("vision_config", 3, "vision_config must be a mapping"),
    ],
)
def test_a_configuration_of_wrong_values_is_named(own, part, changes, says):
    values = json.loads((own / "config.json").read_text())[part]
    changed = {**values, **changes} if isinstance(changes, dict) else changes
    edit(own / "config.json", **{part: changed})
    with pytest.raises(CheckpointError, match=says):
        read_foreign(own)


def test_missing_preprocessing_is_named(own):
    for file in ("preprocessor_config.json", "processor_config.json"):
        (own / file).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
        read_foreign(own)


def test_weights_in_several_files_give_the_same_model(own):
    expected = read_foreign(own)[0].state_dict()
    weights = load_file(own / "model.safetensors")
    (own / "model.safetensors").unlink()
    names = sorted(weights)
    places = {}
    for part, chosen in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: weights[name] for name in chosen}, own / part)
        places |= dict.fromkeys(chosen, part)
    index = {"metadata": {}, "weight_map": places}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    actual = read_foreign(own)[0].state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in actual.items())


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}}])
def test_a_damaged_index_is_named(own, index):
    (own / "model.safetensors").unlink()
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: weight_map"):
        read_foreign(own)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_a_pickle_of_more_than_tensors_is_refused(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (own / "model.safetensors").unlink()
    torch.save({"weight": Bomb()}, own / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_foreign(own)
    assert not Path("exploded").exists()


def test_every_tensor_is_accounted_for(own):
    file = own / "model.safetensors"
    weights = load_file(file)
    name = "vision_model.post_layernorm.bias"
    wrong = {
        name: {k: v for k, v in weights.items() if k != name},
        "vision_model.extra": {**weights, "vision_model.extra": torch.zeros(1)},
        "pos_embed": {
            **weights,
            "vision_model.embeddings.position_embedding": torch.zeros(1, 7, 16),
        },
    }
    for named, changed in wrong.items():
        save_file(changed, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=named) as caught:
            read_foreign(own)
        assert str(own) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"do_normalize": False}, "do_normalize"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"size": {"height": 48, "width": 48}}, "48 x 48"),
        ({"size": {"shortest_edge": 32}}, "shape"),
        ({"do_center_crop": True, "crop_size": {"height": 24, "width": 24}}, "24 x 24"),
    ],
)
def test_preprocessing_without_an_equal_is_refused(own, changes, named):
    file = own / "preprocessor_config.json"
    if file.is_file():
        edit(file, **changes)
    else:
        file = own / "processor_config.json"
        values = json.loads(file.read_text())
        edit(file, image_processor={**values["image_processor"], **changes})
    with pytest.raises(CheckpointError, match=named):
        read_foreign(own)


def test_an_unknown_activation_is_refused(own):
    values = json.loads((own / "config.json").read_text())["text_config"]
    edit(own / "config.json", text_config={**values, "hidden_act": "silu"})
    with pytest.raises(CheckpointError, match="silu"):
        read_foreign(own)


def test_translate():
    one, two = torch.ones(2, 3), torch.zeros(2, 3)
    source = {"q.weight": one, "k.weight": two, "q.bias": one[:, 0], "k.bias": two[:, 0]}
    table = module("qk", "q", "k", how=stacked)
    result = translate(source, table, {})
    assert torch.equal(result["qk.weight"], torch.cat([one, two]))
    assert torch.equal(result["qk.bias"], torch.tensor([1.0, 1, 0, 0]))
    with pytest.raises(CheckpointError, match="mask"):
        translate({**source, "mask": one}, table, {})
    assert translate({**source, "mask": one}, table, {r"ma.k": "made anew"}).keys() == result.keys()
    with pytest.raises(CheckpointError, match="absent"):
        translate(source, {"x": From(("absent",))}, {".*": "all"})
