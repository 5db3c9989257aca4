from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from parity import (
    WORDS,
    bert_vocabulary,
    check_maps,
    layer_outputs,
    photos,
    randomise,
    their_words,
    words,
)
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BeitConfig,
    BeitImageProcessorPil,
    BertConfig,
    BertTokenizer,
    DeiTConfig,
    DeiTImageProcessorPil,
    GPT2Config,
    GPT2Tokenizer,
    PreTrainedConfig,
    RobertaConfig,
    RobertaTokenizer,
    SwinConfig,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    XLMRobertaTokenizer,
)

from vlm.captioner import Captioner
from vlm.explain.maps import METHODS
from vlm.explain.method import MethodError
from vlm.prompts import caption_prompt
from vlm.weights import CheckpointError
from vlm.weights.convert import read_foreign
from vlm.weights.sentence_pieces import FILE, read_pieces

PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 48,
    "patch_size": 16,
}
BERT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
TROCR = {
    "d_model": 24,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 40,
}


def byte_level(*specials: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a small byte-level BPE; the special tokens come first."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [" ".join(WORDS)], vocab_size=300, special_tokens=list(specials), show_progress=False
    )
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def gpt2_tokenizer() -> GPT2Tokenizer:
    vocabulary, merges = byte_level("<|endoftext|>")
    return GPT2Tokenizer(vocab=vocabulary, merges=merges)


def roberta_tokenizer() -> RobertaTokenizer:
    vocabulary, merges = byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return RobertaTokenizer(vocab=vocabulary, merges=merges)


@dataclass
class Case:
    """A reference model, its tokenizer and image processor, and the ids of start and end."""

    model: VisionEncoderDecoderModel
    tokenizer: BertTokenizer | GPT2Tokenizer | RobertaTokenizer
    processor: object
    folder: Path

    @property
    def start(self) -> int:
        return self.model.generation_config.decoder_start_token_id

    @property
    def end(self) -> int:
        return self.model.generation_config.eos_token_id


def encoder(name: str) -> tuple[PreTrainedConfig, object]:
    size = {"height": 48, "width": 48}
    if name == "vit":
        return ViTConfig(**PLAIN, qkv_bias=False), ViTImageProcessorPil(size=size)
    if name == "deit":
        return DeiTConfig(**PLAIN), DeiTImageProcessorPil(size=size, do_center_crop=False)
    if name == "beit":
        config = BeitConfig(**PLAIN, use_relative_position_bias=True)
        return config, BeitImageProcessorPil(size=size, do_center_crop=False)
    if name == "beit-shared":
        config = BeitConfig(
            **PLAIN,
            use_shared_relative_position_bias=True,
            use_absolute_position_embeddings=True,
            use_mean_pooling=False,
            layer_scale_init_value=0.0,
        )
        return config, BeitImageProcessorPil(size=size, do_center_crop=False)
    config = SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    return config, ViTImageProcessorPil(size={"height": 64, "width": 64})


def decoder(name: str) -> tuple[PreTrainedConfig, object, dict[str, int]]:
    """Configuration, tokenizer and the ids of start, end and padding."""
    if name == "gpt2":
        tokenizer = gpt2_tokenizer()
        config = GPT2Config(
            n_embd=24, n_layer=2, n_head=4, n_positions=40, vocab_size=len(tokenizer)
        )
        ids = {"decoder_start_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 0}
        return config, tokenizer, ids
    if name == "bert":
        tokenizer = BertTokenizer(bert_vocabulary())
        ids = {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        return BertConfig(**BERT, vocab_size=len(tokenizer)), tokenizer, ids
    tokenizer = roberta_tokenizer()
    ids = {"decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    if name == "roberta":
        return RobertaConfig(**BERT, vocab_size=len(tokenizer)), tokenizer, ids
    ids["decoder_start_token_id"] = 2
    small = {"scale_embedding": True, "use_learned_position_embeddings": False}
    small |= {"activation_function": "relu", "layernorm_embedding": True}
    changes = small if name == "trocr-small" else {"cross_attention_hidden_size": 32}
    return TrOCRConfig(**TROCR, **changes, vocab_size=len(tokenizer)), tokenizer, ids


PAIRS = [
    ("vit", "gpt2"),
    ("deit", "bert"),
    ("beit", "roberta"),
    ("beit-shared", "bert"),
    ("swin", "gpt2"),
    ("vit", "trocr-base"),
    ("deit", "trocr-small"),
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def case(request, tmp_path_factory) -> Case:
    (vision, processor), (text, tokenizer, ids) = (
        encoder(request.param[0]),
        decoder(request.param[1]),
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    model = VisionEncoderDecoderModel(config=config).eval()
    randomise(model, 1.5)
    for name, value in ids.items():
        setattr(model.generation_config, name, value)
    folder = tmp_path_factory.mktemp("-".join(request.param))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Case(model, tokenizer, processor, folder)


@pytest.fixture(scope="module")
def ours(case) -> Captioner:
    return Captioner(*read_foreign(case.folder))


@pytest.fixture(scope="module")
def pixels(case) -> torch.Tensor:
    return case.processor(photos(), return_tensors="pt")["pixel_values"]


def test_the_same_pixels(ours, pixels):
    actual = torch.stack([ours.preprocess(picture)[0] for picture in photos()])
    torch.testing.assert_close(actual, pixels, atol=1e-6, rtol=1e-5)


def test_the_same_ids(case, ours):
    for text in ("a red dog runs", "There, a  CAT? 12", "naïve 🐕"):
        expected = case.tokenizer(text, add_special_tokens=False).input_ids
        assert ours.tokenizer.encode(text) == expected
        decoded = case.tokenizer.decode(expected, skip_special_tokens=True)
        assert ours.tokenizer.decode(expected) == decoded.strip()


@torch.inference_mode()
def test_the_same_states_layers_and_logits(case, ours, pixels):
    ids = torch.randint(5, 80, (3, 11), generator=torch.Generator().manual_seed(0))
    theirs = case.model(pixels, decoder_input_ids=ids, output_hidden_states=True, use_cache=False)
    memory = ours.model.encode(pixels)
    features, _ = ours.model.vision(pixels)
    torch.testing.assert_close(features, theirs.encoder_last_hidden_state, atol=1e-4, rtol=1e-4)
    projected = ours.model.decoder.project(memory)
    layers = layer_outputs(ours.model.decoder, ids, projected)
    states = list(theirs.decoder_hidden_states[1:])
    if ours.model.config.decoder.prenorm:  # transformers gives the last one normed
        layers[-1] = ours.model.decoder.final_norm(layers[-1])
    for actual, expected in zip(layers, states, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    logits = ours.model.decoder.logits(ours.model.decoder(ids, projected).hidden)
    torch.testing.assert_close(logits, theirs.logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_words(case, ours, pixels, beams):
    sequences = case.model.generate(
        pixels, num_beams=beams, do_sample=False, max_new_tokens=12, length_penalty=1.0
    )
    expected = their_words(sequences, prompt=1, end=case.end)
    model, start = ours.model, list(caption_prompt(ours.tokenizer).ids)
    assert start == [case.start]
    projected = model.decoder.project(model.encode(pixels))
    assert words(model.decoder, projected, ours.tokenizer, [start] * 3, beams, 12) == expected
    assert len({tuple(ids) for ids in expected}) > 1, "the words must depend on the image"
    for row in range(3):
        alone = projected.select(torch.tensor([row]))
        assert words(model.decoder, alone, ours.tokenizer, [start], beams, 12) == [expected[row]]


@pytest.mark.parametrize(
    "case", [("vit", "trocr-base"), ("vit", "gpt2")], ids="-".join, indirect=True
)
def test_an_older_tokenizer_gives_the_same_ids(case, tmp_path):
    """TrOCR's repositories have vocabulary and merges, and no tokenizer.json."""
    folder = Path(shutil.copytree(case.folder, tmp_path / "old"))
    expected = read_foreign(folder)[1]
    backend = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(backend["vocab"]))
    merges = [" ".join(merge) for merge in backend["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    _, tokenizer = read_foreign(folder)
    for text in ("a red dog runs", "There, a  CAT? 12", "naïve 🐕"):
        ids = expected.encode(text)
        assert tokenizer.encode(text) == ids
        ends = [tokenizer.caption, *ids, tokenizer.end]
        assert tokenizer.decode(ends) == expected.decode(ends) == expected.decode(ids)


def test_sentence_pieces_give_the_same_ids(tmp_path):
    """TrOCR's small models have SentencePiece's file alone."""
    sentencepiece = pytest.importorskip("sentencepiece")
    file = tmp_path / FILE
    with file.open("wb") as opened:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(
                [" ".join(WORDS), "a red dog sits, 12 cats run? The man's"] * 20
            ),
            model_writer=opened,
            vocab_size=70,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    theirs = XLMRobertaTokenizer.from_pretrained(tmp_path)
    ours = read_pieces(file)
    assert ours.get_vocab() == theirs.get_vocab()
    for text in ("a red dog runs", "There, a  CAT? 12", "naïve 🐕 ﬁne", "<s> cats", ""):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    file.write_bytes(b"no pieces")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pieces(file)


@pytest.mark.parametrize("case", [("vit", "trocr-base")], ids="-".join, indirect=True)
def test_a_tokenizer_without_its_vocabulary_is_refused(case, tmp_path):
    """transformers makes one of special tokens alone where it finds no file of the vocabulary."""
    folder = Path(shutil.copytree(case.folder, tmp_path / "cut"))
    backend = json.loads((folder / "tokenizer.json").read_text())
    specials = {token["content"]: token["id"] for token in backend["added_tokens"]}
    backend["model"] |= {"vocab": specials, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(backend))
    with pytest.raises(CheckpointError, match=f"{len(specials)} tokens only"):
        read_foreign(folder)


@pytest.mark.parametrize("case", [("vit", "gpt2")], ids="-".join, indirect=True)
def test_an_older_file_of_weights_gives_the_same_model(case, ours, tmp_path):
    """nlpconnect's is a pickle with masks and the tied output among the weights."""
    folder = Path(shutil.copytree(case.folder, tmp_path / "old"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for i in range(2):
        for attention in ("attn", "crossattention"):
            name = f"decoder.transformer.h.{i}.{attention}"
            weights[f"{name}.bias"] = torch.ones(1, 1, 40, 40, dtype=torch.uint8)
            weights[f"{name}.masked_bias"] = torch.tensor(-1e4)
    embeddings = weights["decoder.transformer.wte.weight"]
    weights["decoder.lm_head.weight"] = embeddings
    torch.save(weights, folder / "pytorch_model.bin")
    model, _ = read_foreign(folder)
    expected = ours.model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())

    # The hub's own conversion keeps the first of tied names.
    del weights["decoder.transformer.wte.weight"]
    torch.save(weights, folder / "pytorch_model.bin")
    model, _ = read_foreign(folder)
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())

    weights["decoder.transformer.wte.weight"] = embeddings
    weights["decoder.lm_head.weight"] = embeddings + 1  # a table of its own
    torch.save(weights, folder / "pytorch_model.bin")
    model, _ = read_foreign(folder)
    assert torch.equal(model.decoder.head.weight, embeddings + 1)
    assert torch.equal(model.decoder.token_embedding.weight, embeddings)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains(ours, method):
    prefix = {"class"} if ours.model.config.vision.prefix else set()
    answer = ours.encode(photos()[0]).explain("a red dog")
    if method == "logit" and not ours.model.config.decoder.prenorm:  # its layers do not add up
        with pytest.raises(MethodError, match="logit needs"):
            answer.maps(method=method)
        return
    check_maps(answer, method, prefix)
