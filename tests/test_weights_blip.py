from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity import bert_vocabulary, layer_outputs, photos, randomise, their_words, words
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)

from vlm.captioner import Captioner
from vlm.weights.convert import read_foreign

SIZE = 48
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "sep_token_id": 3,
    "hidden_dropout_prob": 0.0,
}


def blip_config() -> BlipConfig:
    size = len(bert_vocabulary())
    text = {**TEXT, "vocab_size": size + 2, "bos_token_id": size}
    return BlipConfig(vision_config=VISION, text_config=text)


def blip_processor(size: int = SIZE) -> BlipProcessor:
    return BlipProcessor(
        BlipImageProcessorPil(size={"height": size, "width": size}),
        BertTokenizer(bert_vocabulary()),
    )


@pytest.fixture(scope="module")
def reference() -> BlipForConditionalGeneration:
    model = BlipForConditionalGeneration(blip_config()).eval()
    randomise(model, 2.0)
    # The end must come now and then, and not at once.
    model.text_decoder.cls.predictions.bias.data[3] += 1.0
    return model


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    reference.save_pretrained(folder)
    blip_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(folder) -> Captioner:
    return Captioner(*read_foreign(folder))


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return blip_processor().image_processor(photos(), return_tensors="pt")["pixel_values"]


def test_the_same_pixels(ours, pixels):
    actual = torch.stack([ours.preprocess(picture)[0] for picture in photos()])
    torch.testing.assert_close(actual, pixels, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("text", ["a red dog runs", "Is there a CAT?", "don't  zebra 12", "naïve"])
def test_the_same_ids(ours, text):
    expected = blip_processor().tokenizer(text, add_special_tokens=False).input_ids
    assert ours.tokenizer.encode(text) == expected
    assert ours.tokenizer.decode(expected) == blip_processor().tokenizer.decode(expected)


@torch.inference_mode()
def test_the_same_encoder_states(reference, ours, pixels):
    memory = ours.model.encode(pixels)
    expected = reference.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(memory.tokens, expected, atol=1e-4, rtol=1e-4)
    assert [(s.name, s.start, s.stop, s.grid) for s in memory.segments] == [
        ("class", 0, 1, None),
        ("image", 1, 10, (3, 3)),
    ]


@torch.inference_mode()
def test_the_same_layers_and_logits(reference, ours, pixels):
    ids = torch.randint(5, 90, (3, 11), generator=torch.Generator().manual_seed(0))
    states = reference.vision_model(pixels).last_hidden_state
    theirs = reference.text_decoder(
        ids, encoder_hidden_states=states, output_hidden_states=True, use_cache=False
    )
    projected = ours.model.decoder.project(ours.model.encode(pixels))
    layers = layer_outputs(ours.model.decoder, ids, projected)
    for actual, expected in zip(layers, theirs.hidden_states[1:], strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    logits = ours.model.decoder.logits(ours.model.decoder(ids, projected).hidden)
    torch.testing.assert_close(logits, theirs.logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompt", ["", "a red"])
def test_the_same_words(reference, ours, pixels, beams, prompt):
    inputs = {}
    start = ours.tokenizer.caption_prompt() + ours.tokenizer.encode(prompt)
    if prompt:
        inputs["input_ids"] = blip_processor().tokenizer(
            [prompt] * len(pixels), return_tensors="pt"
        )["input_ids"]
    expected = their_words(
        reference.generate(
            pixels,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=12,
            length_penalty=1.0,
            **inputs,
        ),
        prompt=len(start),
        end=3,
    )
    model = ours.model
    projected = model.decoder.project(model.encode(pixels))
    together = words(model.decoder, projected, ours.tokenizer, [start] * 3, beams, 12)
    assert together == expected
    assert len({tuple(ids) for ids in expected}) > 1, "the words must depend on the image"
    for row in range(3):
        alone = projected.select(torch.tensor([row]))
        assert words(model.decoder, alone, ours.tokenizer, [start], beams, 12) == [expected[row]]
