"""Nougat of transformers, of random weights: the same pixels of what is printed, states and words, and their place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import check_maps, photos, randomise, their_words
from PIL import Image
from test_weights_donut import sentencepiece_tokenizer
from transformers import (
    DonutSwinConfig,
    MBartConfig,
    NougatImageProcessorPil,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from vlm.captioner import Captioner
from vlm.images import Preprocess
from vlm.images.frame import printed_box
from vlm.prompts import caption_prompt
from vlm.weights import CheckpointError
from vlm.weights.convert import read_foreign

SIZE = {"height": 96, "width": 64}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def page(shape: tuple[int, int], margins: tuple[int, int, int, int], paper: int) -> Image.Image:
    """A picture printed on paper, inside margins `(left, top, right, bottom)`."""
    left, top, right, bottom = margins
    picture = photos()[0].resize((shape[0] - left - right, shape[1] - top - bottom), 0)
    whole = Image.new("RGB", shape, (paper,) * 3)
    whole.paste(picture.point(lambda level: level // 3), (left, top))
    return whole


PAGES = [
    page((200, 280), (20, 30, 25, 40), 255),
    page((280, 200), (0, 90, 3, 0), 240),
    page((64, 96), (0, 0, 0, 0), 255),
    page((90, 400), (20, 10, 20, 10), 255),
    page((700, 40), (5, 5, 300, 5), 230),
    photos()[1],
    Image.new("RGB", (50, 80), "white"),
    Image.new("RGB", (1, 1), "black"),
]


@pytest.fixture(scope="module")
def nougat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nougat")
    tokenizer = sentencepiece_tokenizer()
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        DonutSwinConfig(
            image_size=[96, 64],
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
        MBartConfig(
            d_model=32,
            decoder_layers=2,
            decoder_attention_heads=4,
            decoder_ffn_dim=40,
            max_position_embeddings=60,
            scale_embedding=True,
            vocab_size=len(tokenizer),
        ),
    )
    model = VisionEncoderDecoderModel(config=config).eval()
    randomise(model, 2.0)
    numbers = {"decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    for name, number in {**numbers, "forced_eos_token_id": None}.items():
        setattr(model.generation_config, name, number)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    NougatImageProcessorPil(size=SIZE).save_pretrained(folder)
    return model, NougatImageProcessorPil(size=SIZE), Captioner(*read_foreign(folder)), folder


@pytest.mark.parametrize("number", range(len(PAGES)))
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (64, 64)])
def test_the_same_pixels_of_what_is_printed(number, size):
    theirs = NougatImageProcessorPil(size={"height": size[0], "width": size[1]})
    expected = torch.tensor(theirs(PAGES[number], return_tensors="np")["pixel_values"][0])
    pixels, frame = Preprocess(size, MEAN, STD, "page", "bilinear")(PAGES[number])
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-5)
    assert (frame.width, frame.height) == PAGES[number].size


@pytest.mark.parametrize("number", range(5))
def test_the_frame_lies_where_it_was_printed(number):
    picture = PAGES[number]
    _, frame = Preprocess((96, 64), MEAN, STD, "page", "bilinear")(picture)
    left, top, right, bottom = frame.box
    cell = (right - left) / 64, (bottom - top) / 96
    # The middle of the input is that of what is printed.
    printed = printed_box(picture)
    assert (left + right) / 2 == pytest.approx((printed[0] + printed[2]) / 2, abs=cell[0])
    assert (top + bottom) / 2 == pytest.approx((printed[1] + printed[3]) / 2, abs=cell[1])
    assert left <= printed[0] + 1e-6
    assert bottom >= printed[3] - 1e-6


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_states_logits_and_words(nougat, beams):
    model, processor, ours, _ = nougat
    pages = [PAGES[0], *photos()]
    pixels = processor(pages, return_tensors="pt")["pixel_values"]
    ids = torch.randint(5, 80, (4, 11), generator=torch.Generator().manual_seed(0))
    theirs = model(pixels, decoder_input_ids=ids)
    images = ours.encode_all(pages)
    for i, image in enumerate(images):
        states = theirs.encoder_last_hidden_state[i : i + 1]
        torch.testing.assert_close(image.memory.tokens, states, atol=1e-4, rtol=1e-4)
        decoder = ours.model.decoder
        logits = decoder.logits(decoder(ids[i : i + 1], image.projected).hidden)
        torch.testing.assert_close(logits, theirs.logits[i : i + 1], atol=1e-4, rtol=1e-4)
    assert caption_prompt(ours.tokenizer).ids == (0,)
    sequences = model.generate(pixels, num_beams=beams, do_sample=False, max_new_tokens=12)
    expected = their_words(sequences, prompt=1, end=2)
    assert len({tuple(ids) for ids in expected}) > 1
    batch = ours.caption(pages, beams=beams, max_tokens=12, min_tokens=0)
    assert [list(answer.ids) for answer in batch] == expected
    single = ours.encode(pages[1]).caption(beams=beams, max_tokens=12, min_tokens=0)
    assert list(single.ids) == expected[1]


def test_a_page_has_maps_and_its_margins_none(nougat):
    answer = nougat[2].encode(PAGES[0]).parse(max_tokens=8)
    check_maps(answer, "attention", set())
    rows, _ = answer.image.frame.spread(answer.maps()[0].grid)
    assert np.isnan(rows[0]).all()  # what was cut off was not seen
    assert not np.isnan(rows[140]).any()
    assert nougat[2].encode(PAGES[0]).explain("A Red, dog.").text == "A Red, dog."


@pytest.mark.parametrize("step", ["do_crop_margin", "do_pad", "do_align_long_axis"])
def test_other_steps_are_refused_by_name(nougat, tmp_path, step):
    folder = Path(shutil.copytree(nougat[3], tmp_path / "other"))
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**values, step: step == "do_align_long_axis"})
    )
    with pytest.raises(CheckpointError, match=step):
        read_foreign(folder)
