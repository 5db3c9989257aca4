from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import vlm
from vlm.weights import CheckpointError
from vlm.weights.hub import available, bundled_folder, find
from vlm.weights.known import ALIASES, KNOWN


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A hub cache of the test's own, and a working directory where nothing lies."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A folder of bundled checkpoints, in the place of the package's own."""
    folder = tmp_path / "assets"
    folder.mkdir()
    monkeypatch.setattr("vlm.weights.hub.bundled_folder", lambda: folder)
    return folder


def cached(cache: Path, name: str, checkpoint: Path, revision: str = "main") -> Path:
    """Lay a checkpoint into the cache as the hub's client does: blobs, and a snapshot of links to them."""
    repo = cache / f"models--{name.replace('/', '--')}"
    commit = revision.encode().hex().ljust(40, "0")
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / revision).write_text(commit)
    for file in checkpoint.iterdir():
        blob = repo / "blobs" / f"{commit}-{file.name}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def test_a_folder_is_itself(tiny_checkpoint):
    assert find(tiny_checkpoint) == tiny_checkpoint
    assert find(str(tiny_checkpoint)) == tiny_checkpoint


def test_the_bundled_folder_is_beside_the_package_or_inside_it():
    package = Path(vlm.__file__).parent
    assert bundled_folder() in (package / "assets", package.parent / "assets")


def test_a_bundled_name_wins_over_a_folder_of_that_name(assets, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, assets / "small")
    Path("small").mkdir()
    assert find("small") == assets / "small"
    assert find() == assets / "small"
    assert find("./small") == Path("small")


def test_a_hub_id_is_found_in_the_cache_without_network(cache, tiny, tiny_checkpoint):
    snapshot = cached(cache, "someone/tiny", tiny_checkpoint)
    assert find("someone/tiny") == snapshot
    captioner = vlm.load("someone/tiny")
    assert captioner.model.config == tiny.model.config


def test_a_folder_wins_over_a_hub_id(cache, tiny_checkpoint):
    cached(cache, "someone/tiny", tiny_checkpoint)
    folder = Path(shutil.copytree(tiny_checkpoint, Path("someone/tiny")))
    assert find("someone/tiny") == folder


@pytest.mark.parametrize(
    "name",
    [
        "someone/unknown",
        "unknown",
        "no/such/folder",
        "./nothing",
        "/nothing",
        "a b/c",
        "..",
        "x" * 300,
        Path("someone/unknown"),
    ],
)
def test_an_unknown_model_is_one_sentence_that_names_it(name):
    with pytest.raises(CheckpointError) as caught:
        vlm.load(name)
    assert str(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_hub_id_without_network_says_so():
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        find("someone/unknown")


def test_a_model_of_another_library_in_the_cache_is_refused(cache, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "llava"}')
    (foreign / "model.safetensors").write_bytes(b"")
    (foreign / "tokenizer.json").write_text("{}")
    cached(cache, "someone/foreign", foreign)
    with pytest.raises(CheckpointError, match="transformers' llava, which is not read here"):
        vlm.load("someone/foreign")
    assert "someone/foreign" not in {entry.name for entry in available()}


def test_what_is_not_read_is_not_fetched(cache, tmp_path, monkeypatch):
    """The configurations arrive first, and gigabytes of weights only where an importer reads them."""
    asked = []

    def fetch(name, allow_patterns):
        asked.append(allow_patterns)
        (tmp_path / "config.json").write_text('{"model_type": "paligemma"}')
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(CheckpointError, match="paligemma, which is not read here"):
        find("someone/paligemma")
    assert asked == [["*config.json"]]


def test_available_lists_bundled_and_cached_models(assets, cache, tiny, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, assets / "small")
    snapshot = cached(cache, "someone/tiny", tiny_checkpoint)
    cached(cache, "someone/tiny", tiny_checkpoint, revision="older")
    entries = available()
    assert [(entry.name, entry.folder) for entry in entries] == [
        ("small", assets / "small"),
        ("someone/tiny", snapshot),
    ]
    size = sum(file.stat().st_size for file in tiny_checkpoint.iterdir())
    assert {entry.size for entry in entries} == {size}
    assert {entry.tasks for entry in entries} == {("caption", "vqa")}
    assert {entry.licence for entry in entries} == {tiny.model.config.licence}


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        ({"architectures": ["BlipForConditionalGeneration"]}, ("caption",)),
        ({"architectures": ["BlipForQuestionAnswering"]}, ("vqa",)),
        ({"architectures": ["VisionEncoderDecoderModel"]}, ("caption",)),
        ({"architectures": ["LlavaForConditionalGeneration"]}, None),
        ({"architectures": []}, None),
    ],
)
def test_available_lists_what_importers_read(assets, cache, tmp_path, config, tasks):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# A model\n")
    cached(cache, "someone/foreign", folder)
    found = [(entry.name, entry.tasks, entry.licence) for entry in available()]
    assert found == ([("someone/foreign", tasks, "bsd-3-clause")] if tasks else [])


def test_available_lists_coca_whatever_its_card_says(assets, cache, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    config = {"model_cfg": {"multimodal_cfg": {}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    cached(cache, "someone/coca", folder)
    (entry,) = available()
    assert (entry.tasks, entry.licence) == (("caption",), "unknown")


@pytest.mark.parametrize("format", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize(("part", "found"), [("text_decoder.ln_final", 1), ("text.ln_final", 0)])
def test_available_knows_coca_without_a_configuration_by_its_tensors(
    assets, cache, tmp_path, format, part, found
):
    folder = tmp_path / "foreign"
    folder.mkdir()
    weights = {"visual.proj": torch.zeros(4, 4), f"{part}.weight": torch.zeros(4)}
    if format == "safetensors":
        save_file(weights, folder / "open_clip_model.safetensors")
    else:
        file = folder / "open_clip_pytorch_model.bin"
        torch.save(weights, file, _use_new_zipfile_serialization=format == "zip")
    cached(cache, "someone/model", folder)
    assert [entry.tasks for entry in available()] == [("caption",)] * found


def test_what_is_damaged_is_not_available(assets, cache, tiny_checkpoint):
    for name, text in {"cut": '{"format_ver', "list": "[1]", "other": json.dumps({})}.items():
        shutil.copytree(tiny_checkpoint, assets / name)
        (assets / name / "config.json").write_text(text)
    (assets / "photo.jpg").write_bytes(b"")
    (cache / "not a repository").write_text("")
    assert available() == []


def test_no_cache_is_no_models(assets, cache):
    cache.rmdir()
    assert available() == []


def test_an_alias_is_a_hub_id(cache, tiny_checkpoint):
    snapshot = cached(cache, ALIASES["florence-2"], tiny_checkpoint)
    assert find("florence-2") == snapshot
    Path("florence-2").mkdir()  # a folder of the user's own wins
    assert find("florence-2") == Path("florence-2")
    with pytest.raises(CheckpointError, match="cannot be reached"):
        find("blip-vqa")


def test_what_is_known_is_told_once_and_in_the_table():
    page = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text()
    names = [known.name for known in KNOWN]
    aliases = [known.alias for known in KNOWN if known.alias]
    assert len(set(names + aliases)) == len(names + aliases)
    table = page.split("## Which one should I take?")[1].split("\n\n")[1]
    for line in table.splitlines()[3:]:
        for alias in line.split("|")[2].split(":")[0].replace("`", "").split(","):
            assert ALIASES[alias.strip()] in names
    for known in KNOWN:
        assert known.parameters > 0
        assert known.licence in ("MIT", "BSD-3-Clause", "Apache-2.0", "CC-BY-NC-4.0")
