from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity import bert_vocabulary, check_maps, layer_outputs, photos, randomise, their_words, words
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
)

from vlm.captioner import Captioner
from vlm.explain.maps import METHODS
from vlm.explain.method import MethodError
from vlm.prompts import QuestionError, caption_prompt, question_prompt
from vlm.tokenizer import Tokenizer
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
    start = list(caption_prompt(ours.tokenizer).ids) + ours.tokenizer.encode(prompt)
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


# Question answering


QUESTIONS = ["is there a dog?", "what colour is the cat on the grass?", "how many?"]


def vqa_reference(text: dict, vision: dict) -> BlipForQuestionAnswering:
    size = len(bert_vocabulary())
    text = {**text, "vocab_size": size + 2, "bos_token_id": size}
    model = BlipForQuestionAnswering(BlipConfig(vision_config=vision, text_config=text)).eval()
    randomise(model, 2.0)
    return model


@pytest.fixture(scope="module")
def vqa() -> BlipForQuestionAnswering:
    # The question's states and the image's have one width in all of BLIP's checkpoints.
    return vqa_reference({**TEXT, "hidden_size": 32}, VISION)


@pytest.fixture(scope="module")
def asker(vqa, tmp_path_factory) -> Captioner:
    folder = tmp_path_factory.mktemp("blip-vqa")
    vqa.save_pretrained(folder)
    blip_processor().save_pretrained(folder)
    return Captioner(*read_foreign(folder))


def ask_theirs(vqa, pixels, questions, beams) -> list[list[int]]:
    inputs = blip_processor().tokenizer(questions, padding=True, return_tensors="pt")
    sequences = vqa.generate(
        pixel_values=pixels,
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        num_beams=beams,
        do_sample=False,
        max_new_tokens=8,
        length_penalty=1.0,
    )
    return their_words(sequences, prompt=1, end=3)


@torch.inference_mode()
def test_vqa_the_same_question_states_layers_and_logits(vqa, asker, pixels):
    """With questions of different lengths, padded: theirs on the right, ours on the left."""
    inputs = blip_processor().tokenizer(QUESTIONS, padding=True, return_tensors="pt")
    image = vqa.vision_model(pixels).last_hidden_state
    states = vqa.text_encoder(**inputs, encoder_hidden_states=image).last_hidden_state
    model = asker.model
    prompts = [list(question_prompt(asker.tokenizer, question).ids) for question in QUESTIONS]
    memory = model.read(model.project(model.encode(pixels)), prompts)
    for row, prompt in enumerate(prompts):
        assert inputs["input_ids"][row, : len(prompt)].tolist() == prompt
        actual = memory.tokens[row, memory.mask[row]]
        torch.testing.assert_close(actual, states[row, : len(prompt)], atol=1e-4, rtol=1e-4)

    ids = torch.randint(5, 90, (3, 6), generator=torch.Generator().manual_seed(0))
    projected = model.decoder.project(memory)
    layers = layer_outputs(model.decoder, ids, projected)
    logits = model.decoder.logits(model.decoder(ids, projected).hidden)
    for row, prompt in enumerate(prompts):
        theirs = vqa.text_decoder(
            ids[row : row + 1],
            encoder_hidden_states=states[row : row + 1, : len(prompt)],
            output_hidden_states=True,
            use_cache=False,
        )
        for actual, expected in zip(layers, theirs.hidden_states[1:], strict=True):
            torch.testing.assert_close(actual[row], expected[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits[row], theirs.logits[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_vqa_the_same_answers_one_by_one(vqa, asker, pixels, beams):
    options = {"beams": beams, "max_tokens": 8, "length_penalty": 1.0, "candidates": 1}
    options["min_tokens"] = 0  # an answer may be empty there
    answers = set()
    for picture, row in zip(photos(), pixels):
        image = asker.encode(picture)
        for question in QUESTIONS:
            (expected,) = ask_theirs(vqa, row[None], [question], beams)
            assert list(image.ask(question, **options).ids) == expected
            answers.add(tuple(expected))
    assert len(answers) > 3, "the answers must depend on image and question"


@torch.inference_mode()
def test_vqa_batch_equals_single_where_theirs_does_not(vqa, asker, pixels):
    """Their decoder attends to the padding of shorter questions, even with the mask; ours is the question alone."""
    image = asker.encode(photos()[0])
    together = image.ask_all(QUESTIONS, max_tokens=8)
    for question, answer in zip(QUESTIONS, together):
        alone = image.ask(question, max_tokens=8)
        assert answer.ids == alone.ids
        assert answer.confidence == pytest.approx(alone.confidence, rel=1e-4)

    inputs = blip_processor().tokenizer(QUESTIONS, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"]
    states = vqa.vision_model(pixels[:1]).last_hidden_state.expand(3, -1, -1)
    read = vqa.text_encoder(**inputs, encoder_hidden_states=states).last_hidden_state
    start = torch.tensor([list(caption_prompt(asker.tokenizer).ids)] * 3)
    theirs = vqa.text_decoder(start, encoder_hidden_states=read, encoder_attention_mask=mask).logits
    projected, prompts = asker.start([image], QUESTIONS)
    assert [list(prompt) for prompt in prompts] == start.tolist()
    ours = asker.model.decoder.logits(asker.model.decoder(start, projected).hidden)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        one = slice(row, row + 1)
        alone = vqa.text_decoder(start[one], encoder_hidden_states=read[one, :length]).logits[0]
        torch.testing.assert_close(ours[row], alone, atol=1e-4, rtol=1e-4)
        padded = length < mask.shape[1]
        assert padded == (not torch.allclose(theirs[row], alone, atol=0.1))


@torch.inference_mode()
def test_vqa_an_answers_map_is_two_hops(vqa, asker):
    """The answer's attention to the question's words, times theirs to the patches."""
    image = asker.encode(photos()[1])
    answer = image.explain("red", QUESTIONS[0])
    maps = answer.maps()
    assert [m.text for m in maps] == ["is", "there", "a", "dog", "?", "red"]
    assert [m.role for m in maps] == ["question"] * 5 + ["answer"]

    vqa.set_attn_implementation("eager")
    pixels = blip_processor().image_processor([photos()[1]], return_tensors="pt")["pixel_values"]
    states = vqa.vision_model(pixels).last_hidden_state
    question = torch.tensor([list(question_prompt(asker.tokenizer, QUESTIONS[0]).ids)])
    read = vqa.text_encoder(question, encoder_hidden_states=states, output_attentions=True)
    hop_one = torch.stack(read.cross_attentions).mean(dim=(0, 2))[0, :, 1:]  # (T, P)
    start = torch.tensor([list(caption_prompt(asker.tokenizer).ids)])
    written = vqa.text_decoder(
        start,
        encoder_hidden_states=read.last_hidden_state,
        output_attentions=True,
        use_cache=False,
    )
    hop_two = torch.stack(written.cross_attentions).mean(dim=(0, 2))[0]  # (1, T)
    expected = (hop_two @ hop_one).view(3, 3)
    torch.testing.assert_close(maps[-1].weights, expected / expected.sum(), atol=1e-4, rtol=1e-3)
    dog = hop_one[4].view(3, 3)
    torch.testing.assert_close(maps[3].weights, dog / dog.sum(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", sorted({*METHODS} - {"logit"}))
def test_every_method_explains_captions_questions_and_answers(ours, asker, method):
    photo = photos()[1]
    check_maps(ours.encode(photo).explain("a red dog"), method, {"class"})
    check_maps(asker.encode(photo).explain("red", QUESTIONS[0]), method, {"class"})


def test_what_a_model_cannot_do_is_said(ours, asker):
    with pytest.raises(QuestionError, match="answers no questions"):
        ours.encode(photos()[0]).ask("is there a dog?")
    with pytest.raises(QuestionError, match="writes no captions"):
        asker.encode(photos()[0]).caption()
    with pytest.raises(MethodError, match="attention is for all"):
        ours.encode(photos()[0]).explain("a red dog").maps(method="logit")


def test_vqa_streams_and_scores(asker):
    image = asker.encode(photos()[2])
    answer = image.ask(QUESTIONS[1], beams=1, max_tokens=6)
    assert tuple(image.stream(QUESTIONS[1], max_tokens=6)) == answer.words


def test_a_prompt_of_the_configuration_starts_every_caption(ours):
    text = replace(ours.tokenizer.config, prompt="a red")
    tokenizer = Tokenizer(ours.tokenizer.backend, text)
    prompt = [ours.tokenizer.caption, *ours.tokenizer.encode("a red")]
    assert Captioner(ours.model, tokenizer).prompt(None).ids == tuple(prompt)
