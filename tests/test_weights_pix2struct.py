"""Pix2Struct of transformers, of random weights: the same pixels, ids, states and words, each image on its own grid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from parity import check_maps, layer_outputs, photos, randomise, their_words, words
from PIL import Image
from test_weights_donut import sentencepiece_tokenizer
from transformers import (
    Pix2StructConfig,
    Pix2StructForConditionalGeneration,
    Pix2StructImageProcessorPil,
    Pix2StructProcessor,
)
from transformers.models.pix2struct import image_processing_pil_pix2struct
from transformers.models.pix2struct.modeling_pix2struct import Pix2StructTextAttention

import vlm
from vlm.app.page import said
from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.explain.maps import METHODS
from vlm.explain.method import MethodError
from vlm.images import Preprocess
from vlm.images.header import header_font, with_header
from vlm.model.decoder import distance_buckets
from vlm.model.memory import below_header, image_memory
from vlm.prompts import QuestionError, caption_prompt
from vlm.runtimes.onnx_export import ExportError, export
from vlm.runtimes.openvino import BackendError, compiled
from vlm.weights import CheckpointError
from vlm.weights.convert import read_foreign

PATCHES = 40
QUESTIONS = [
    "what is there?",
    "Is THE dog red, or how many cats are there in the grass, and what colour is it?",
]


@pytest.fixture(scope="module")
def font_file(tmp_path_factory) -> str:
    """This machine's font of headers, as the file that transformers would fetch."""
    path = header_font().path
    file = tmp_path_factory.mktemp("font") / "Arial.TTF"
    file.write_bytes(Path(path).read_bytes() if isinstance(path, str) else path.getvalue())
    return str(file)


def pix2struct(
    folder: Path, painted: bool, tied: bool = False
) -> tuple[Pix2StructForConditionalGeneration, Pix2StructProcessor]:
    """A tiny model in a folder, as transformers saves it."""
    tokenizer = sentencepiece_tokenizer()
    config = Pix2StructConfig(
        vision_config={
            "hidden_size": 32,
            "patch_embed_hidden_size": 8 * 8 * 3,
            "d_ff": 40,
            "d_kv": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "seq_len": 64,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 12,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        is_vqa=painted,
        tie_word_embeddings=tied,
    )
    model = Pix2StructForConditionalGeneration(config).eval()
    randomise(model, 1.5)
    model.save_pretrained(folder)
    size = {"height": 8, "width": 8}
    images = Pix2StructImageProcessorPil(patch_size=size, max_patches=PATCHES, is_vqa=painted)
    processor = Pix2StructProcessor(images, tokenizer)
    processor.save_pretrained(folder)
    return model, processor


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textcaps")
    model, processor = pix2struct(folder, painted=False)
    return model, processor, Captioner(*read_foreign(folder)), folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docvqa")
    model, processor = pix2struct(folder, painted=True)
    return model, processor, Captioner(*read_foreign(folder)), folder


def unflattened(patches: torch.Tensor, mask: torch.Tensor, side: int) -> torch.Tensor:
    """Their patches of one image, `(max, 2 + n * n * 3)`, as pixels `(3, H, W)`."""
    rows, columns = (int(patches[:, i].max()) for i in range(2))
    own = patches[mask.bool(), 2:]
    assert len(own) == rows * columns
    return own.view(rows, columns, side, side, 3).permute(4, 0, 2, 1, 3).reshape(3, rows * side, -1)


SHAPES = [(150, 90), (90, 150), (64, 64), (7, 5), (1, 1), (3, 200), (900, 4), (1200, 700)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("patches", [40, 2048])
def test_the_same_pixels(shape, patches):
    picture = photos()[0].resize(shape, 0)
    side = {"height": 16, "width": 16}
    theirs = Pix2StructImageProcessorPil(patch_size=side, max_patches=patches)
    made = theirs(picture, return_tensors="pt")
    expected = unflattened(made["flattened_patches"][0], made["attention_mask"][0], 16)
    grey = (0.5,) * 3
    pixels, frame = Preprocess((16, 16), grey, grey, "patches", "bilinear", patches)(picture)
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=1e-4)
    assert frame.box == (0, 0, *shape)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("shape", [(150, 90), (90, 150), (1, 1), (2000, 30), (700, 1200)])
def test_the_same_header(font_file, question, shape):
    picture = photos()[0].resize(shape, 0)
    theirs = Pix2StructImageProcessorPil()
    pixels = np.array(picture).transpose(2, 0, 1)
    expected = theirs.render_header(pixels, question, font_path=font_file)
    both, share = with_header(picture, question)
    assert np.array_equal(np.array(both).transpose(2, 0, 1), expected)
    # What is below the header is the picture, and nothing else.
    red = np.array(with_header(Image.new("RGB", shape, "red"), question)[0])[:, :, 1] == 0
    assert share * both.height == pytest.approx(np.argmax(red.all(axis=1)))


def test_the_same_buckets():
    back = torch.arange(700)
    for buckets, reach in ((32, 128), (8, 12), (2, 5)):
        expected = Pix2StructTextAttention._relative_position_bucket(-back, False, buckets, reach)
        assert distance_buckets(back, buckets, reach).tolist() == expected.tolist()


@torch.inference_mode()
def test_the_same_states_layers_and_logits(captions):
    model, processor, ours, _ = captions
    for picture in photos():
        inputs = processor(images=picture, max_patches=PATCHES, return_tensors="pt")
        ids = torch.randint(5, 80, (1, 30), generator=torch.Generator().manual_seed(0))
        theirs = model(**inputs, decoder_input_ids=ids, output_hidden_states=True)
        image = ours.encode(picture)
        real = inputs["attention_mask"].bool()
        states = theirs.encoder_last_hidden_state[real][None]
        torch.testing.assert_close(image.memory.tokens, states, atol=1e-4, rtol=1e-4)
        layers = layer_outputs(ours.model.decoder, ids, image.projected)
        for actual, expected in zip(layers[:-1], theirs.decoder_hidden_states[1:]):
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
        logits = ours.model.decoder.logits(ours.model.decoder(ids, image.projected).hidden)
        torch.testing.assert_close(logits, theirs.logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_words_on_grids_of_their_own(captions, beams):
    model, processor, ours, folder = captions
    inputs = processor(images=photos(), max_patches=PATCHES, return_tensors="pt")
    options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 24}
    expected = their_words(model.generate(**inputs, **options), prompt=1, end=2)
    images = ours.encode_all(photos())
    grids = [image.memory.image.grid for image in images]
    assert len(set(grids)) == len(grids)
    for image, grid in zip(images, grids):
        shape = image.frame.height / image.frame.width
        assert 0.8 * shape < grid[0] / grid[1] < 1.25 * shape
        assert PATCHES * 0.7 < grid[0] * grid[1] <= PATCHES
    said = [
        words(ours.model.decoder, image.projected, ours.tokenizer, [[1]], beams, 24)[0]
        for image in images
    ]
    assert said == expected
    assert len({tuple(ids) for ids in expected}) > 1, "the words must depend on the image"
    batch = ours.caption(photos(), beams=beams, max_tokens=24, min_tokens=0)
    assert [list(answer.ids) for answer in batch] == expected
    assert caption_prompt(ours.tokenizer).ids == (1,)
    packed = vlm.load(folder).caption(photos(), beams=beams, max_tokens=24, min_tokens=0)
    assert [list(answer.ids) for answer in packed] == expected


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_a_question_is_painted_above_the_picture(questions, font_file, monkeypatch, beams):
    model, processor, ours, _ = questions
    images = ours.encode_all(photos())
    hub = SimpleNamespace(hf_hub_download=lambda *_: font_file)
    monkeypatch.setattr(image_processing_pil_pix2struct, "hf_api", lambda: hub)
    for question in QUESTIONS:
        inputs = processor.image_processor(photos(), header_text=question, return_tensors="pt")
        options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 12}
        expected = their_words(model.generate(**inputs, **options), prompt=1, end=2)
        own = {"beams": beams, "max_tokens": 12, "min_tokens": 0, "length_penalty": 1.0}
        answers = [image.ask(question, candidates=1, **own) for image in images]
        assert [list(answer.ids) for answer in answers] == expected
        for picture, answer in zip(photos(), answers):
            assert answer.question == question
            assert answer.image.picture.size == picture.size
            assert answer.image.frame.box == (0, 0, *picture.size)
            assert answer.image.memory.image.grid == ours.preprocess.grid(*picture.size)


@pytest.mark.parametrize("method", sorted({*METHODS} - {"logit"}))
def test_every_method_explains(captions, questions, method):
    check_maps(captions[2].encode(photos()[0]).caption(max_tokens=6), method, set())
    answer = questions[2].encode(photos()[0]).ask(QUESTIONS[0], max_tokens=6, min_tokens=2)
    maps = answer.maps(method=method)
    # The question has no tokens: where its letters were looked at is told as a share.
    assert [word.text for word in maps] == [word.text for word in answer.words]
    for word in maps:
        assert word.weights.shape == answer.image.memory.image.grid
        assert word.weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert word.mass + sum(word.elsewhere.values()) <= 1 + 1e-5
        assert method == "pixels" or word.elsewhere.keys() == {"header"}


def test_the_share_of_a_header_is_told_and_the_rest_lies_on_the_picture():
    tokens = torch.randn(1, 6 * 4, 8)
    memory = below_header(image_memory(tokens, (6, 4)), 1 / 3, (4, 4))
    attention = torch.zeros(3, 24)
    attention[0, 3], attention[1, 8], attention[2, 23] = (
        1,
        1,
        1,
    )  # in the header, below it, in the last corner
    assert memory.shares(attention)["header"].tolist() == [1, 0, 0]
    patches = memory.on_patches(attention[None])[0]
    assert patches.sum(dim=(1, 2)).tolist() == pytest.approx([0, 1, 1])
    assert patches[1, 0, 0] == pytest.approx(1)
    assert patches[2, 3, 3] == pytest.approx(1)


def test_a_region_a_stream_and_an_engine_ask_the_same(questions):
    ours, question = questions[2], QUESTIONS[0]
    image = ours.encode(photos()[0])
    options = {"beams": 1, "max_tokens": 6, "min_tokens": 0}
    alone = image.ask(question, **options)
    assert image.ask_all(QUESTIONS, **options)[0].ids == alone.ids
    assert alone.image.ask(QUESTIONS[1], **options).ids == image.ask(QUESTIONS[1], **options).ids
    assert [w.text for w in image.stream(question, **options)] == [w.text for w in alone.words]
    with Engine(ours) as engine:
        jobs = [engine.ask(i, image, asked, **options) for i, asked in enumerate(QUESTIONS * 2)]
        assert [job.result().ids for job in jobs[::2]] == [alone.ids] * 2
    assert image.explain(alone.text, question).logprobs == pytest.approx(
        image.explain(alone.text, f"{question} ").logprobs
    )
    assert alone.image_effect.total == pytest.approx(sum(alone.image_effect.words), abs=1)
    part = image.region((0, 0, 70, 50)).ask(question, **options)
    assert part.image.frame == image.frame
    assert alone.image.region((0, 0, 70, 50)).ask(question, **options).ids == part.ids


@pytest.mark.parametrize(
    ("question", "said"), [("", "empty"), (" \n", "empty"), ("why? " * 500, "too long")]
)
def test_a_question_that_cannot_be_painted_is_refused(questions, question, said):
    with pytest.raises(QuestionError, match=said):
        questions[2].encode(photos()[0]).ask(question)


def test_what_a_model_was_not_made_for_is_refused(captions, questions, tmp_path):
    with pytest.raises(QuestionError, match="writes no captions"):
        questions[2].encode(photos()[0]).caption()
    with pytest.raises(QuestionError, match="answers no questions"):
        captions[2].encode(photos()[0]).ask(QUESTIONS[0])
    with pytest.raises(BackendError, match="a size of its own"):
        compiled(captions[2].model)
    with pytest.raises(ExportError, match="a size of its own"):
        export(captions[2].model, captions[2].tokenizer, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"vision_config": {"d_kv": 4}}, "4 heads of 4 channels"),
        ("config.json", {"text_config": {"d_kv": 16}}, "4 heads of 16 channels"),
        ("config.json", {"vision_config": {"seq_len": 20}}, "images of 40 patches"),
        ("config.json", {"text_config": {"dense_act_fn": "silu"}}, "silu"),
        ("config.json", {"vision_config": {"num_hidden_layers": 3}}, "encoder.encoder.layer.2"),
        ("config.json", {"vision_config": {"num_hidden_layers": 1}}, "encoder.encoder.layer.1"),
        ("processor_config.json", {"image_processor": {"do_normalize": False}}, "do_normalize"),
        ("processor_config.json", {"image_processor": {"max_patches": -1}}, "max_patches|patches"),
        (
            "processor_config.json",
            {"image_processor": {"patch_size": {"height": 16, "width": 8}}},
            "patch_embed_hidden_size",
        ),
    ],
)
def test_what_does_not_fit_is_named(captions, tmp_path, file, changes, said):
    folder = Path(shutil.copytree(captions[3], tmp_path / "other"))
    values = json.loads((folder / file).read_text())
    for part, own in changes.items():
        values[part] = {**values[part], **own}
    (folder / file).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=said):
        read_foreign(folder)


@pytest.mark.parametrize("head", [True, False])
def test_an_output_of_its_own_or_the_embeddings(tmp_path, head):
    model, processor = pix2struct(tmp_path, painted=False, tied=not head)
    ours = Captioner(*read_foreign(tmp_path))
    assert ours.model.config.decoder.tied == (not head)
    inputs = processor(images=photos()[0], max_patches=PATCHES, return_tensors="pt")
    sequences = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=8)
    (expected,) = their_words(sequences, prompt=1, end=2)
    answer = ours.encode(photos()[0]).caption(beams=1, max_tokens=8, min_tokens=0)
    assert list(answer.ids) == expected
    assert answer.maps()[0].weights.isfinite().all()
    with pytest.raises(MethodError, match="attention is for all"):
        answer.maps(method="logit")


def test_the_page_shows_a_painted_question(questions):
    answer = questions[2].encode(photos()[0]).ask(QUESTIONS[0], max_tokens=4)
    shown = said(0, answer, answer.maps())
    assert [word["text"] for word in shown["question"]] == QUESTIONS[0].split()
    assert all(word["map"] is None for word in shown["question"])
    assert all(word["map"] is not None for word in shown["words"])
