"""One model of each family in its real size, of random weights: what tiny ones cannot show, such as head sizes."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf
from parity import bert_vocabulary, photos, their_words
from test_weights_coca import hub_tokenizer
from test_weights_donut import RECEIPT, sentencepiece_tokenizer
from test_weights_florence import tokenizer as florence_tokenizer
from test_weights_vision_encoder_decoder import gpt2_tokenizer
from torch import nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    DonutImageProcessorPil,
    DonutProcessor,
    DonutSwinConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GPT2Config,
    MBartConfig,
    Pix2StructConfig,
    Pix2StructForConditionalGeneration,
    Pix2StructImageProcessorPil,
    Pix2StructProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

import vlm
from vlm.captioner import Captioner
from vlm.prompts import caption_prompt, question_prompt

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def the_same_weights_each_time() -> None:
    """Of weights that chance drew a caption may have no word, and so no map."""
    torch.manual_seed(0)


@torch.no_grad()
def vary(model: nn.Module) -> None:
    """Norms and biases off their initial 1 and 0."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim == 1:
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)


def blip_folder(model: nn.Module, folder: Path) -> Captioner:
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(), BertTokenizer(bert_vocabulary())).save_pretrained(folder)
    return vlm.load(folder)


def blip_config() -> BlipConfig:
    """The published sizes, but for the rows of the vocabulary, which are the test tokenizer's."""
    size = len(bert_vocabulary())
    tokens = {"vocab_size": size + 2, "bos_token_id": size, "sep_token_id": 3}
    return BlipConfig(text_config={"num_attention_heads": 12, **tokens})


@torch.inference_mode()
def test_blip_caption(tmp_path):
    model = BlipForConditionalGeneration(blip_config()).eval()
    vary(model)
    ours = blip_folder(model, tmp_path)
    image = ours.encode(photos()[0])
    pixels = ours.preprocess(photos()[0])[0][None]
    ids = torch.randint(5, 90, (1, 20))
    states = model.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(image.memory.tokens, states, atol=1e-4, rtol=1e-4)
    expected = model.text_decoder(ids, encoder_hidden_states=states).logits
    decoder = ours.model.decoder
    actual = decoder.logits(decoder(ids, image.projected).hidden)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    sequences = model.generate(pixels, num_beams=3, max_new_tokens=8, do_sample=False)
    words = [token for token in sequences[0, 1:].tolist() if token != 3]
    assert list(image.caption(beams=3, max_tokens=8, min_tokens=0).ids) == words
    assert image.caption(max_tokens=8).maps()[0].grid == (24, 24)


@torch.inference_mode()
def test_blip_vqa(tmp_path):
    model = BlipForQuestionAnswering(blip_config()).eval()
    vary(model)
    ours = blip_folder(model, tmp_path)
    image = ours.encode(photos()[0])
    pixels = ours.preprocess(photos()[0])[0][None]
    questions = ["is there a dog?", "what colour is the cat on the grass?"]
    options = {"beams": 3, "candidates": 1, "min_tokens": 0, "max_tokens": 6}
    answers = image.ask_all(questions, length_penalty=1.0, **options)
    for question, answer in zip(questions, answers):
        asked = torch.tensor([list(question_prompt(ours.tokenizer, question).ids)])
        sequences = model.generate(asked, pixels, num_beams=3, max_new_tokens=6, do_sample=False)
        words = [token for token in sequences[0, 1:].tolist() if token != 3]
        assert list(answer.ids) == words


@torch.inference_mode()
def test_vit_gpt2(tmp_path):
    tokenizer = gpt2_tokenizer()
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(), GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0)
    )
    model = VisionEncoderDecoderModel(config=config).eval()
    vary(model)
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, 0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ViTImageProcessorPil().save_pretrained(tmp_path)
    ours = vlm.load(tmp_path)
    image = ours.encode(photos()[0])
    pixels = ours.preprocess(photos()[0])[0][None]
    ids = torch.randint(5, 90, (1, 20))
    theirs = model(pixels, decoder_input_ids=ids)
    torch.testing.assert_close(
        image.memory.tokens, theirs.encoder_last_hidden_state, atol=1e-4, rtol=1e-4
    )
    decoder = ours.model.decoder
    actual = decoder.logits(decoder(ids, image.projected).hidden)
    torch.testing.assert_close(actual, theirs.logits, atol=1e-4, rtol=1e-4)
    sequences = model.generate(pixels, num_beams=3, max_new_tokens=8, do_sample=False)
    words = [token for token in sequences[0, 1:].tolist() if token != 0]
    assert list(image.caption(beams=3, max_tokens=8, min_tokens=0).ids) == words


@torch.inference_mode()
def test_coca(tmp_path):
    """With the published configuration and CLIP's whole vocabulary."""
    model, _, transform = open_clip.create_model_and_transforms("coca_ViT-B-32")
    model.eval()
    # open_clip leaves these as memory had them.
    nn.init.normal_(model.text_decoder.text_projection, std=0.02)
    vary(model)
    theirs = open_clip.tokenizer.SimpleTokenizer()
    config = open_clip.get_model_config("coca_ViT-B-32")
    save_for_hf(model, hub_tokenizer(theirs), config, str(tmp_path))
    ours = vlm.load(tmp_path)
    assert ours.tokenizer.encode("Two dogs' puppies, in a park.") == theirs.encode(
        "Two dogs' puppies, in a park."
    )
    pixels = transform(photos()[0])[None]
    memory = ours.model.encode(pixels)
    ids = theirs(["a dog runs in the grass"])[:, :7]
    _, states = model.visual(pixels)
    torch.testing.assert_close(memory.tokens, states, atol=1e-4, rtol=1e-4)
    expected = model(pixels, ids, output_labels=False)["logits"]
    decoder = ours.model.decoder
    actual = decoder.logits(decoder(ids, decoder.project(memory)).hidden)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert memory.lift.shape == (1, 255, 49)


@torch.inference_mode()
def test_donut(tmp_path):
    """In the size of the receipts' model."""
    tokenizer = sentencepiece_tokenizer(*RECEIPT, "<s_cord-v2>")
    encoder = DonutSwinConfig(
        image_size=[1280, 960],
        embed_dim=128,
        depths=[2, 2, 14, 2],
        num_heads=[4, 8, 16, 32],
        window_size=10,
    )
    decoder = MBartConfig(
        decoder_layers=4,
        max_position_embeddings=768,
        scale_embedding=True,
        vocab_size=len(tokenizer),
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = VisionEncoderDecoderModel(config=config).eval()
    vary(model)
    for name, value in {"eos_token_id": 2, "pad_token_id": 1, "forced_eos_token_id": None}.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(tmp_path)
    images = DonutImageProcessorPil(size={"height": 1280, "width": 960})
    DonutProcessor(images, tokenizer).save_pretrained(tmp_path)
    ours = vlm.load(tmp_path)
    image = ours.encode(photos()[0])
    pixels = images(photos()[:1], return_tensors="pt")["pixel_values"]
    ids = torch.randint(5, 80, (1, 20))
    theirs = model(pixels, decoder_input_ids=ids)
    torch.testing.assert_close(
        image.memory.tokens, theirs.encoder_last_hidden_state, atol=1e-4, rtol=1e-4
    )
    decoder = ours.model.decoder
    actual = decoder.logits(decoder(ids, image.projected).hidden)
    torch.testing.assert_close(actual, theirs.logits, atol=1e-4, rtol=1e-4)
    start = torch.tensor([list(caption_prompt(ours.tokenizer).ids)])
    options = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    (expected,) = their_words(model.generate(pixels, decoder_input_ids=start, **options), 1, end=2)
    assert list(image.caption(beams=3, max_tokens=8, min_tokens=0).ids) == expected
    assert image.memory.image.grid == (40, 30)


@torch.inference_mode()
def test_florence(tmp_path):
    """The base model's size, but for the rows of the vocabulary."""
    words = florence_tokenizer()
    config = Florence2Config(
        vision_config={"projection_dim": 768},
        text_config={
            "model_type": "bart",
            "vocab_size": len(words),
            "d_model": 768,
            **{f"{part}_layers": 6 for part in ("encoder", "decoder")},
            **{f"{part}_attention_heads": 12 for part in ("encoder", "decoder")},
            **{f"{part}_ffn_dim": 3072 for part in ("encoder", "decoder")},
        },
        image_token_id=words.image_token_id,
    )
    model = Florence2ForConditionalGeneration(config).eval()
    vary(model)
    values = {"decoder_start_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": None}
    for name, value in values.items():
        setattr(model.generation_config, name, value)
    images = CLIPImageProcessorPil(size={"height": 768, "width": 768}, do_center_crop=False)
    images.image_seq_length = 577
    processor = Florence2Processor(images, words)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ours = vlm.load(tmp_path)
    image = ours.encode(photos()[0])
    asked = processor(images=photos()[:1], text="<CAPTION>", return_tensors="pt")
    prompt = ours.prompt(None).ids
    assert list(prompt) == asked["input_ids"][0, 577:].tolist()
    ids = torch.randint(5, 80, (1, 20))
    theirs = model(**asked, decoder_input_ids=ids)
    read = ours.model.read(image.projected, [prompt])
    torch.testing.assert_close(read.tokens, theirs.encoder_last_hidden_state, atol=1e-4, rtol=1e-4)
    decoder = ours.model.decoder
    actual = decoder.logits(decoder(ids, decoder.project(read)).hidden)
    torch.testing.assert_close(actual, theirs.logits, atol=1e-4, rtol=1e-4)
    sequences = model.generate(**asked, num_beams=3, max_new_tokens=9, do_sample=False)
    (expected,) = their_words(sequences, prompt=2, end=2)
    assert list(image.caption(beams=3, max_tokens=8, min_tokens=0).ids) == expected
    assert image.explain("a red dog").maps()[0].grid == (24, 24)


@torch.inference_mode()
def test_pix2struct(tmp_path):
    """The base model's size, but for the rows of the vocabulary, on an eighth of its patches."""
    words = sentencepiece_tokenizer()
    tokens = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = Pix2StructConfig(text_config={"vocab_size": len(words), **tokens})
    model = Pix2StructForConditionalGeneration(config).eval()
    vary(model)
    images = Pix2StructImageProcessorPil(max_patches=256)
    model.save_pretrained(tmp_path)
    Pix2StructProcessor(images, words).save_pretrained(tmp_path)
    ours = vlm.load(tmp_path)
    image = ours.encode(photos()[0])
    inputs = images(photos()[:1], return_tensors="pt")
    ids = torch.randint(5, 80, (1, 20))
    theirs = model(**inputs, decoder_input_ids=ids)
    real = inputs["attention_mask"].bool()
    states = theirs.encoder_last_hidden_state[real][None]
    torch.testing.assert_close(image.memory.tokens, states, atol=1e-4, rtol=1e-4)
    decoder = ours.model.decoder
    actual = decoder.logits(decoder(ids, image.projected).hidden)
    torch.testing.assert_close(actual, theirs.logits, atol=1e-4, rtol=1e-4)
    sequences = model.generate(**inputs, num_beams=3, max_new_tokens=8, do_sample=False)
    (expected,) = their_words(sequences, prompt=1, end=2)
    assert list(image.caption(beams=3, max_tokens=8, min_tokens=0).ids) == expected
    assert image.memory.image.grid == (12, 20)
