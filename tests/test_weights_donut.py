"""Donut of transformers, of random weights: the same pixels, ids, states, words and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from parity import WORDS, check_maps, layer_outputs, photos, randomise, their_words, words
from PIL import Image
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    DonutImageProcessorPil,
    DonutProcessor,
    DonutSwinConfig,
    MBartConfig,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

import vlm
from vlm.captioner import Captioner
from vlm.explain.maps import METHODS
from vlm.fields import fields_of
from vlm.prompts import caption_prompt, question_prompt
from vlm.weights import CheckpointError
from vlm.weights.convert import read_foreign

SIZE = {"height": 96, "width": 64}  # 24 x 16 cells of the first stage, 12 x 8 of the second
RECEIPT = ["<s_menu>", "</s_menu>", "<s_nm>", "</s_nm>", "<s_price>", "</s_price>", "<paid/>"]
ANSWERS = ["<s_question>", "</s_question>", "<s_answer>", "</s_answer>"]


def sentencepiece_tokenizer(*marks: str) -> PreTrainedTokenizerFast:
    """As transformers makes one of XLM-RoBERTa's files, with Donut's marks added in its order."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ?'.,0123456789"
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = ["▁", *letters, *(f"▁{word}" for word in WORDS)]
    vocabulary = [(piece, 0.0) for piece in specials]
    vocabulary += [(piece, -1.0 - 0.01 * i) for i, piece in enumerate(dict.fromkeys(pieces))]
    backend = Backend(models.Unigram(vocabulary, unk_id=3))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos": 0, "pad": 1, "eos": 2, "unk": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": specials[i] for name, i in names.items()}
    )
    added = ["<sep/>", "<s_iitcdip>", "<s_synthdog>", *marks]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    return tokenizer


def donut(folder: Path, *marks: str) -> tuple[VisionEncoderDecoderModel, DonutProcessor]:
    """A tiny model in a folder, as its fine-tuning saved it."""
    tokenizer = sentencepiece_tokenizer(*marks)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        DonutSwinConfig(
            image_size=[96, 64],
            patch_size=4,
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
    randomise(model, 1.5)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 1
    # Where a text is cut ours does not say that it ended.
    model.generation_config.forced_eos_token_id = None
    model.save_pretrained(folder)
    processor = DonutProcessor(DonutImageProcessorPil(size=SIZE), tokenizer)
    processor.save_pretrained(folder)
    return model, processor


@pytest.fixture(scope="module")
def receipts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cord")
    model, processor = donut(folder, *RECEIPT, "<s_cord-v2>")
    return model, processor, Captioner(*read_foreign(folder)), folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docvqa")
    model, processor = donut(folder, *ANSWERS, "<s_docvqa>")
    return model, processor, Captioner(*read_foreign(folder))


SHAPES = [(150, 90), (90, 150), (64, 96), (100, 100), (70, 96), (96, 70), (400, 30), (30, 400)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (64, 64)])
def test_the_same_pixels(receipts, shape, size):
    picture = photos()[0].resize(shape, 0)
    theirs = DonutImageProcessorPil(size={"height": size[0], "width": size[1]})
    expected = torch.tensor(theirs(picture, return_tensors="np")["pixel_values"][0])
    preprocess = vlm.images.Preprocess(size, (0.5,) * 3, (0.5,) * 3, "pad", "bilinear")
    pixels, frame = preprocess(picture)
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=1e-5)
    # What lies within the frame's image is what is not black.
    black = Image.new("RGB", shape, "white")
    rows, columns = (preprocess(black)[0][0] > 0).nonzero().T
    left, top, right, bottom = frame.box
    cell = (right - left) / size[1], (bottom - top) / size[0]
    assert left + columns.min() * cell[0] == pytest.approx(0, abs=1e-4)
    assert top + rows.min() * cell[1] == pytest.approx(0, abs=1e-4)
    assert left + (columns.max() + 1) * cell[0] == pytest.approx(shape[0], abs=1e-4)
    assert top + (rows.max() + 1) * cell[1] == pytest.approx(shape[1], abs=1e-4)


@pytest.mark.parametrize("shape", [(3_000, 2), (1, 1), (1, 700)])
def test_strips_are_padded_too(shape):
    preprocess = vlm.images.Preprocess((96, 64), (0.5,) * 3, (0.5,) * 3, "pad", "bilinear")
    pixels, frame = preprocess(Image.new("RGB", shape, "white"))
    assert pixels.shape == (3, 96, 64)
    assert pixels.max() == 1
    assert (frame.width, frame.height) == shape


@torch.inference_mode()
def test_the_same_states_layers_and_logits(receipts):
    model, processor, ours, _ = receipts
    pixels = processor.image_processor(photos(), return_tensors="pt")["pixel_values"]
    ids = torch.randint(5, 80, (3, 11), generator=torch.Generator().manual_seed(0))
    theirs = model(pixels, decoder_input_ids=ids, output_hidden_states=True, use_cache=False)
    memory = ours.model.encode(pixels)
    torch.testing.assert_close(
        memory.tokens, theirs.encoder_last_hidden_state, atol=1e-4, rtol=1e-4
    )
    projected = ours.model.decoder.project(memory)
    layers = layer_outputs(ours.model.decoder, ids, projected)
    for actual, expected in zip(layers[:-1], theirs.decoder_hidden_states[1:]):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    logits = ours.model.decoder.logits(ours.model.decoder(ids, projected).hidden)
    torch.testing.assert_close(logits, theirs.logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_words_from_the_task_on(receipts, beams):
    model, processor, ours, _ = receipts
    pixels = processor.image_processor(photos(), return_tensors="pt")["pixel_values"]
    start = processor.tokenizer("<s_cord-v2>", add_special_tokens=False).input_ids
    assert list(caption_prompt(ours.tokenizer).ids) == start
    asked = torch.tensor([start] * 3)
    options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 12}
    sequences = model.generate(pixels, decoder_input_ids=asked, **options)
    expected = their_words(sequences, prompt=1, end=2)
    projected = ours.model.decoder.project(ours.model.encode(pixels))
    assert words(ours.model.decoder, projected, ours.tokenizer, [start] * 3, beams, 12) == expected
    assert len({tuple(ids) for ids in expected}) > 1, "the words must depend on the image"
    batch = ours.caption(photos(), beams=beams, max_tokens=12, min_tokens=0)
    assert [list(answer.ids) for answer in batch] == expected


@torch.inference_mode()
@pytest.mark.parametrize("question", ["what is there?", "Is THE dog red", "How many. cats's"])
def test_a_question_is_asked_as_it_is_written(questions, question):
    model, processor, ours = questions
    prompt = f"<s_docvqa><s_question>{question}</s_question><s_answer>"
    asked = processor.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    own = question_prompt(ours.tokenizer, question)
    assert list(own.ids) == asked[0].tolist()
    assert ours.tokenizer.decode([own.ids[i] for i in own.given]) == question
    pixels = processor.image_processor(photos()[:1], return_tensors="pt")["pixel_values"]
    sequences = model.generate(pixels, decoder_input_ids=asked, num_beams=3, max_new_tokens=8)
    (expected,) = their_words(sequences, prompt=asked.shape[1], end=2)
    options = {"max_tokens": 8, "min_tokens": 0, "candidates": 1, "length_penalty": 1.0}
    assert list(ours.encode(photos()[0]).ask(question, beams=3, **options).ids) == expected


MENU = "<s_menu><s_nm>red dog</s_nm><s_price>12</s_price>"
DOCUMENTS = [
    f"{MENU}</s_menu>",
    f"{MENU}<sep/><s_nm>cat</s_nm><s_price>2<sep/>3</s_price></s_menu>",
    "<s_nm>a</s_nm><s_price><paid/></s_price>",
    "<s_nm>a</s_nm><sep/><s_nm>the</s_nm>",
    "<s_nm>a</s_nm></s_menu><s_price>2",  # cut at the greatest length
    "<s_nm></s_nm><s_price>two cats</s_price>",
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_same_json(receipts, document):
    _, processor, ours, _ = receipts
    ids = processor.tokenizer(document, add_special_tokens=False).input_ids
    expected = processor.token2json(processor.tokenizer.decode(ids))
    assert fields_of(ours.tokenizer, ids) == expected


def test_words_without_fields_are_none(receipts):
    _, processor, ours, _ = receipts
    open_mark = "<s_menu><s_nm>red</s_menu><s_price>2</s_price>"
    ids = processor.tokenizer(open_mark, add_special_tokens=False).input_ids
    assert fields_of(ours.tokenizer, ids) == {"menu": "red", "price": "2"}
    assert fields_of(ours.tokenizer, ours.tokenizer.encode("a red dog")) is None
    assert fields_of(ours.tokenizer, []) is None


def test_a_parse_tells_its_fields(receipts):
    _, processor, ours, folder = receipts
    said = f"{MENU}</s_menu>"
    ids = processor.tokenizer(said, add_special_tokens=False).input_ids
    answer = ours.score_ids(ours.encode(photos()[0]), ids, None)
    assert answer.fields == {"menu": {"nm": "red dog", "price": "12"}}
    assert answer.text == "red dog 12"
    assert json.loads(json.dumps(answer.to_dict()))["fields"] == answer.fields
    assert ours.encode(photos()[0]).parse().ids == vlm.load(folder).encode(photos()[0]).parse().ids
    assert "fields" not in ours.encode(photos()[0]).explain("a dog").to_dict()


@pytest.mark.parametrize("step", ["do_thumbnail", "do_pad", "do_align_long_axis"])
def test_other_steps_are_refused_by_name(receipts, tmp_path, step):
    folder = Path(shutil.copytree(receipts[3], tmp_path / "other"))
    file = folder / "processor_config.json"
    values = json.loads(file.read_text())
    values["image_processor"][step] = step == "do_align_long_axis"
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=step):
        read_foreign(folder)


def test_an_older_size_has_the_width_first(receipts, tmp_path):
    folder = Path(shutil.copytree(receipts[3], tmp_path / "older"))
    (folder / "processor_config.json").unlink()
    older = {"feature_extractor_type": "DonutFeatureExtractor", "size": [64, 96], "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(older))
    model, _ = read_foreign(folder)
    assert model.config.vision.preprocess == receipts[2].preprocess


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains(questions, method):
    check_maps(questions[2].encode(photos()[0]).ask("what is there?"), method, set())
