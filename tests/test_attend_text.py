"""Translation looked into: rows and columns are words, and a word's row is what chose it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image
from transformers import (
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from typer.testing import CliRunner

from vlm.attend.alignment_picture import CELL, picture
from vlm.attend.source import Alignment, AttendError, gather_alignment
from vlm.attend.text_pairs import TextPair, load_text_model, read_pair
from vlm.attend.token_words import TokenWord, token_words
from vlm.cli.main import app

SOURCE = "the unbelievable dog runs, and the cat sleeps"
TARGET = "der hund läuft und die katze schläft"
CORPUS = [SOURCE, TARGET, "a dog's tail", "die katzen", "cat", "dog", "hund", "katze", "runs"] * 3


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in Marian's format, with pieces shorter than words."""
    folder = tmp_path_factory.mktemp("marian")
    lines = folder / "lines.txt"
    lines.write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(folder / "pieces"), vocab_size=42, minloglevel=2
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "pieces.model"))
    names = ["</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, 42)), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    model = folder / "pieces.model"
    tokenizer = MarianTokenizer(str(model), str(model), str(folder / "vocab.json"))
    config = MarianConfig(
        vocab_size=len(names),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=len(names) - 1,
        decoder_start_token_id=len(names) - 1,
        eos_token_id=0,
        forced_eos_token_id=0,
        max_length=12,
    )
    save(MarianMTModel, config, tokenizer, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5") / "model"
    letters = sorted(set("".join(CORPUS)) - {" "})
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(piece, -3.0) for piece in ("▁the", "▁dog", "▁ca", "t", "▁hund", "▁ka", "tze", "▁un")]
    known = {piece for piece, _ in vocab}
    vocab += [(letter, -8.0) for letter in letters if letter not in known]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0)
    config = T5Config(
        vocab_size=len(vocab),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    save(T5ForConditionalGeneration, config, tokenizer, folder)
    return folder


def save(kind: Any, config: Any, tokenizer: Any, folder: Path) -> None:
    """A model whose weights are large enough for attention to be uneven."""
    torch.manual_seed(0)
    model = kind(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(params=["marian", "t5"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def aligned(folder: Path, source: str, target: str | None) -> Alignment:
    return gather_alignment(read_pair(*load_text_model(str(folder)), source, target))


def test_words_are_those_that_were_typed(folder: Path) -> None:
    found = aligned(folder, SOURCE, TARGET)
    assert list(found.source) == SOURCE.replace(",", " ,").split()
    assert list(found.target) == TARGET.split()
    assert found.weights.shape == (7, 9)
    assert (found.mass < 1).all()  # the end of the source has a share
    assert (found.mass > 0.2).all()


def test_a_row_is_what_chose_its_word(folder: Path) -> None:
    """It knows the words before, and neither its own nor those after."""
    long, other = aligned(folder, SOURCE, TARGET), aligned(folder, SOURCE, "der hund läuft hund")
    torch.testing.assert_close(long.weights[:3], other.weights[:3])
    pair = read_pair(*load_text_model(str(folder)), "the cat", "dog")
    again = read_pair(*load_text_model(str(folder)), "the cat", "hund")
    for one, two in zip(pair.cross_attention, again.cross_attention):
        torch.testing.assert_close(one[:, 0], two[:, 0])


def test_layers_and_heads_average_to_the_whole(folder: Path) -> None:
    pair = read_pair(*load_text_model(str(folder)), SOURCE, TARGET)
    parts = [gather_alignment(pair, layer, head).weights for layer in (0, 1) for head in (0, 1)]
    torch.testing.assert_close(torch.stack(parts).mean(0), gather_alignment(pair).weights)
    with pytest.raises(AttendError, match="there is no layer 2; they are 0 to 1"):
        gather_alignment(pair, layer=2)
    with pytest.raises(AttendError, match="there is no head 9"):
        gather_alignment(pair, head=9)


def test_the_models_own_words_are_those_that_it_writes(folder: Path) -> None:
    model, tokenizer = load_text_model(str(folder))
    ids = model.generate(**tokenizer(SOURCE, return_tensors="pt"), max_new_tokens=20)
    text = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert text.strip()
    model.generation_config.max_new_tokens = 20
    found = gather_alignment(read_pair(model, tokenizer, SOURCE))
    assert "".join(found.target) == text.replace(" ", "")


def test_a_planted_alignment_is_found() -> None:
    """Tokens 1 and 2 of the target are a word, and so are tokens 0 and 1 of the source."""
    attention = torch.zeros(1, 3, 4)
    attention[0, 0, 2] = 1
    attention[0, 1, 0], attention[0, 1, 1] = 0.5, 0.25
    attention[0, 2, 3] = 1  # which is the source's end
    words = [TokenWord("ab", (0, 1)), TokenWord("c", (2,))]
    pair = TextPair(words, [TokenWord("x", (0,)), TokenWord("yz", (1, 2))], [attention])
    found = gather_alignment(pair)
    torch.testing.assert_close(found.weights, torch.tensor([[0, 1], [0.375, 0]]))
    drawn = np.asarray(picture(found).convert("L"), dtype=int)
    middles = drawn[-1 - CELL * 4 : -CELL, :]  # the lower row and what is below it
    assert middles.max() > middles.min()


class Spelling:
    """A tokenizer whose tokens are texts."""

    all_special_ids, unk_token_id = (0, 1), 1
    eos_token_id = pad_token_id = 0

    def __init__(self, *pieces: str) -> None:
        self.pieces = ["", "<unk>", *pieces]

    def decode(self, ids: list[int], **_: bool) -> str:
        return "".join(self.pieces[token] for token in ids)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["un", "happy", " dog"], ["unhappy", "dog"]),
        ([" a", " b", "."], ["a", "b", "."]),
        (["don", "'", "t", " go"], ["don't", "go"]),
        (["well", "-", "known"], ["well-known"]),
        (["a ", "dog ", "runs "], ["a", "dog", "runs"]),
        (["日本", "語", "です"], ["日本", "語", "です"]),
        (["(", "a", ")"], ["(", "a", ")"]),
        (["e", "\u0301t", "e\u0301"], ["e\u0301te\u0301"]),
        ([" ", "dog"], ["dog"]),
        ([], []),
    ],
)
def test_tokens_join_into_words(pieces: list[str], words: list[str]) -> None:
    tokenizer = Spelling(*pieces)
    found = token_words(tokenizer, [*range(2, 2 + len(pieces)), 0])
    assert [word.text for word in found] == words


def test_unknown_tokens_are_words_and_special_ones_are_none() -> None:
    found = token_words(Spelling(" dog"), [0, 2, 1, 0])
    assert [(word.text, word.places) for word in found] == [("dog", (1,)), ("<unk>", (2,))]


# The command


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["attend", *map(str, arguments)])


def test_the_command_draws_a_grid(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    result = run(folder, SOURCE, TARGET, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["target"] == TARGET.split()
    assert np.array(said["weights"]).shape == (7, 9)
    with Image.open(out) as grid:
        assert grid.width > 9 * CELL
        assert grid.height > 7 * CELL
    assert run(folder, SOURCE, TARGET, "--out", tmp_path / "grid.npz").exit_code == 0
    with np.load(tmp_path / "grid.npz", allow_pickle=False) as arrays:
        assert arrays["source"].tolist() == said["source"]
        np.testing.assert_allclose(arrays["weights"], said["weights"], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a dog"], "give --out"),
        (["a dog", "--out", "grid.pdf"], ".png or .npz"),
        (["", "hund", "--json"], "the source has no words"),
        (["a dog", " ", "--json"], "the target has no words"),
        (["a dog", "hund", "--json", "--layer", 7], "there is no layer 7"),
        (["dog " * 99, "hund", "--json"], "the source has"),
        (["dog", "hund " * 99, "--json"], "the target has"),
    ],
)
def test_refusals(marian: Path, arguments: list[object], sentence: str) -> None:
    result = run(marian, *arguments)
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.parametrize("what", ["nothing", "bert"])
def test_a_folder_without_such_a_model(tmp_path: Path, what: str) -> None:
    if what == "bert":
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    result = run(tmp_path, "a dog", "--json")
    assert result.exit_code == 2, result.output
    assert "no encoder-decoder of transformers could be loaded" in result.output


def test_a_model_with_fused_attention_is_told_how_to_load(t5: Path) -> None:
    model = T5ForConditionalGeneration.from_pretrained(t5, attn_implementation="sdpa")
    tokenizer = load_text_model(str(t5))[1]
    with pytest.raises(AttendError, match="attn_implementation='eager'"):
        read_pair(model, tokenizer, SOURCE, TARGET)
