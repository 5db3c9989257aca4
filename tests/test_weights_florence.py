"""Florence-2 of transformers, of random weights, under both sets of names: the same states, words and boxes."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import check_maps, layer_outputs, photos, randomise, their_words
from PIL import Image
from safetensors.torch import load_file, save_file
from test_weights_vision_encoder_decoder import byte_level
from transformers import (
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    RobertaTokenizer,
)

import vlm
from vlm.captioner import Captioner
from vlm.engine import Engine
from vlm.explain.maps import METHODS
from vlm.prompts import QuestionError, caption_prompt, question_prompt
from vlm.weights import CheckpointError
from vlm.weights.convert import read_foreign
from vlm.weights.florence import ADDED, INSTRUCTIONS

SIZE = {"height": 128, "width": 96}  # 4 x 3 patches, and one for all of them
SLOTS = 13
VISION = {"embed_dim": [8, 16, 24, 32], "num_heads": [2, 2, 3, 4], "num_groups": [2, 2, 3, 4]}
VISION |= {"depths": [1, 1, 2, 1], "window_size": 4, "max_position_embeddings": 6}
TEXT = {"d_model": 32, "max_position_embeddings": 100, "dropout": 0.0}
TEXT |= {f"{part}_layers": 2 for part in ("encoder", "decoder")}
TEXT |= {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
TEXT |= {f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")}


def tokenizer() -> RobertaTokenizer:
    """BART's kind, with what Microsoft's processor adds, and transformers' token of an image."""
    vocabulary, merges = byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    made = RobertaTokenizer(vocab=vocabulary, merges=merges)
    made.add_tokens([*ADDED, "<image>"], special_tokens=True)
    made.image_token, made.image_token_id = "<image>", len(made) - 1
    return made


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A tiny model in a folder, with its processor."""
    words = tokenizer()
    config = Florence2Config(
        vision_config=VISION | {"projection_dim": 32},
        text_config=TEXT | {"model_type": "bart", "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    model = Florence2ForConditionalGeneration(config).eval()
    randomise(model, 1.5)
    for name, value in {"decoder_start_token_id": 2, "forced_bos_token_id": 0}.items():
        setattr(model.generation_config, name, value)
    model.generation_config.forced_eos_token_id = None
    images = CLIPImageProcessorPil(
        size=SIZE, do_center_crop=False, image_mean=[0.48, 0.45, 0.4], image_std=[0.22] * 3
    )
    images.image_seq_length = SLOTS
    processor = Florence2Processor(
        images,
        words,
        post_processor_config={
            "description_with_bboxes": {},
            "phrase_grounding": {"banned_grounding_tokens": ["it"]},
            "ocr": {},
        },
    )
    folder = tmp_path_factory.mktemp("florence")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


@pytest.fixture(scope="module")
def ours(case) -> Captioner:
    return Captioner(*read_foreign(case[2]))


def inputs(case, prompts: list[str]) -> dict[str, torch.Tensor]:
    """Theirs for one photo a prompt; shorter prompts are padded on the right."""
    return case[1](images=photos(len(prompts)), text=prompts, return_tensors="pt", padding=True)


@torch.inference_mode()
def test_the_same_states_layers_and_logits(case, ours):
    model = case[0]
    asked = inputs(case, ["<CAPTION>", "what is on the grass?", "<OD>"])
    ids = torch.randint(5, 80, (3, 11), generator=torch.Generator().manual_seed(0))
    pixels = torch.stack([ours.preprocess(photo)[0] for photo in photos()])
    torch.testing.assert_close(pixels, asked["pixel_values"], atol=1e-6, rtol=1e-5)
    theirs = model(**asked, decoder_input_ids=ids, output_hidden_states=True, use_cache=False)
    memory = ours.model.encode(pixels)
    image = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(memory.tokens, image, atol=1e-4, rtol=1e-4)
    assert [s.name for s in memory.segments] == ["class", "image"]
    assert memory.image.grid == (4, 3)

    questions = [INSTRUCTIONS["caption"], "what is on the grass?", INSTRUCTIONS["detect"]]
    prompts = [list(question_prompt(ours.tokenizer, question).ids) for question in questions]
    for prompt, row, mask in zip(prompts, asked["input_ids"], asked["attention_mask"]):
        assert prompt == row[mask.bool()][SLOTS:].tolist()
    read = ours.model.read(ours.model.project(memory), prompts)
    for row, prompt in enumerate(prompts):
        expected = theirs.encoder_last_hidden_state[row, : SLOTS + len(prompt)]
        own = torch.cat([read.tokens[row, :SLOTS], read.tokens[row, -len(prompt) :]])
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)
    projected = ours.model.decoder.project(read)
    layers = layer_outputs(ours.model.decoder, ids, projected)
    for actual, expected in zip(layers, theirs.decoder_hidden_states[1:]):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    logits = ours.model.decoder.logits(ours.model.decoder(ids, projected).hidden)
    torch.testing.assert_close(logits, theirs.logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_words(case, ours, beams):
    asked = inputs(case, ["<CAPTION>", "what is on the grass?", "<OD>"])
    options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 12}
    sequences = case[0].generate(**asked, **options)
    assert (sequences[:, 1] == 0).all()  # which they force
    expected = their_words(sequences, prompt=2, end=2)
    assert len({tuple(ids) for ids in expected}) > 1, "the words must depend on the image"
    images = ours.encode_all(photos())
    chosen = {"beams": beams, "max_tokens": 11, "min_tokens": 0, "candidates": 1}
    caption = images[0].caption(**chosen)
    answer = images[1].ask("what is on the grass?", length_penalty=1.0, **chosen)
    boxes = images[2].detect(no_repeat_ngram=0, **chosen)
    assert [list(a.ids) for a in (caption, answer, boxes)] == expected
    (batched, _, _) = ours.caption(photos(), **chosen)
    assert batched.ids == caption.ids
    together = images[1].ask_all(["is there a cat", "what is on the grass?"], **chosen)
    assert together[1].ids == images[1].ask("what is on the grass?", **chosen).ids


def microsoft(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """The same checkpoint as Microsoft's own code saves it: other names, and a tokenizer without what it adds."""
    names = [
        (r"^model\.(vision_tower\..*\.)conv\.", r"\1proj."),
        (r"(spatial|channel)_block\.conv([12])\.", r"\1_block.conv\2.fn.dw."),
        (r"spatial_block\.norm1\.", "spatial_block.window_attn.norm."),
        (r"channel_block\.norm1\.", "channel_block.channel_attn.norm."),
        (r"(window|channel)_attn\.(qkv|proj)\.", r"\1_attn.fn.\2."),
        (r"_block\.norm2\.", "_block.ffn.norm."),
        (r"ffn\.(fc[12])\.", r"ffn.fn.net.\1."),
        (r"^model\.vision_tower", "vision_tower"),
        (r"^model\.multi_modal_projector\.image_projection\.weight", "image_projection"),
        (r"^model\.multi_modal_projector\.image_position_embed", "image_pos_embed"),
        (r"^model\.multi_modal_projector\.", ""),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head", "language_model.lm_head"),
    ]
    renamed = {}
    for name, tensor in weights.items():
        for pattern, other in names:
            name = re.sub(pattern, other, name)
        renamed[name] = tensor.t().contiguous() if name == "image_projection" else tensor
    shared = renamed["language_model.model.shared.weight"]
    renamed["language_model.lm_head.weight"] = shared.clone()
    renamed["language_model.model.encoder.embed_tokens.weight"] = shared.clone()
    renamed["language_model.final_logits_bias"] = torch.zeros(1, len(shared))
    save_file(renamed, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    vision |= {"model_type": "davit", "dim_embed": vision.pop("embed_dim")}
    places = {"type": "learned_abs_2d", "max_pos_embeddings": vision.pop("max_position_embeddings")}
    vision |= {
        "image_pos_embed": places,
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    backend = json.loads((folder / "tokenizer.json").read_text())
    known = set(backend["model"]["vocab"])
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["content"] in known]
    (folder / "tokenizer.json").write_text(json.dumps(backend))


def test_both_sets_of_names_give_the_same_model(case, ours, tmp_path):
    folder = Path(shutil.copytree(case[2], tmp_path / "microsoft"))
    microsoft(folder, load_file(folder / "model.safetensors"))
    model, words = read_foreign(folder)
    expected = ours.model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert words.backend.token_to_id("<loc_999>") == ours.tokenizer.backend.token_to_id("<loc_999>")
    assert words.decode(words.encode("a red dog")) == "a red dog"


def test_a_configuration_may_have_both_sets_of_names(case, ours, tmp_path):
    """transformers' conversion keeps Microsoft's beside its own."""
    folder = Path(shutil.copytree(case[2], tmp_path / "both"))
    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    vision["dim_embed"] = vision["embed_dim"]
    vision["image_pos_embed"] = {"type": "learned_abs_2d", "max_pos_embeddings": 6}
    (folder / "config.json").write_text(json.dumps(config))
    assert read_foreign(folder)[0].config == ours.model.config
    vision["image_feature_source"] = ["last_frame"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="image_feature_source"):
        read_foreign(folder)


def test_it_is_kept_and_loaded_again(case, ours, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = vlm.load(case[2])  # packed
    expected = ours.encode(photos()[0]).caption(beams=3, max_tokens=9)
    actual = again.encode(photos()[0]).caption(beams=3, max_tokens=9)
    assert actual.ids == expected.ids
    assert actual.score == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.parametrize("method", sorted({*METHODS} - {"logit"}))
@pytest.mark.parametrize("question", ["what is on the grass?", None])
def test_every_method_explains(ours, method, question):
    image = ours.encode(photos()[0])
    answer = image.explain("a red dog", question)
    assert caption_prompt(ours.tokenizer).ids == (2, 0)
    others = {"class"} if method in ("occlusion", "contrast") else {"class", "question"}
    check_maps(answer, method, others)


def test_a_hidden_patch_changes_what_is_said(ours):
    image = ours.encode(photos()[0])
    answer = image.explain("a red dog", "what is it?")
    effect = answer.what_if(hide=(0, 0, 70, 40), max_tokens=5)
    assert effect.lost != 0
    assert answer.image_effect.total != 0


def test_what_does_not_fit_is_refused(case, tmp_path):
    for name, value in {"max_position_embeddings": 3, "patch_stride": [4, 2, 2, 1]}.items():
        folder = Path(shutil.copytree(case[2], tmp_path / name))
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"][name] = value
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=name):
            read_foreign(folder)


BOXES = [
    # what is said, and how transformers reads it
    ("dog<loc_10><loc_20><loc_500><loc_999>cat<loc_0><loc_0><loc_1><loc_1>", "<OD>"),
    ("dog<loc_1><loc_2><loc_30><loc_40><loc_5><loc_6><loc_70><loc_80>", "<DENSE_REGION_CAPTION>"),
    ("a red dog<loc_9><loc_8><loc_700><loc_600> on grass<loc_1><loc_2><loc_3>", "<OD>"),
    ("the man<loc_4><loc_4><loc_400><loc_444>", "<CAPTION_TO_PHRASE_GROUNDING>"),
    ("no<loc_1><loc_2><loc_30><loc_2><loc_30><loc_44><loc_1><loc_44>", "<OCR_WITH_REGION>"),
]


@pytest.mark.parametrize(("said", "task"), BOXES)
def test_the_same_boxes(case, ours, said, task):
    _, processor, _ = case
    photo = photos()[0]
    parsed = processor.post_process_generation(text=said, task=task, image_size=photo.size)[task]
    question = {"<OCR_WITH_REGION>": "ocr with regions"}.get(task, "detect")
    ids = processor.tokenizer(said, add_special_tokens=False).input_ids
    answer = ours.score_ids(ours.encode(photo), ids, question)
    labels = [place.label for place in answer.places]
    corners = [[int(c) for corner in p.corners for c in corner] for p in answer.places]
    assert labels == parsed["labels"]
    assert answer.text == re.sub(r"(<loc_\d+>)+ ?", " ", said).strip()
    assert [word.text for word in answer.words] == answer.text.split()
    assert corners == parsed.get("bboxes", parsed.get("quad_boxes"))
    assert labels
    assert json.loads(json.dumps(answer.to_dict()))["places"][0]["label"] == labels[0]
    for place in answer.places:
        left, top, right, bottom = place.box
        assert 0 <= left <= right <= photo.width
        assert 0 <= top <= bottom <= photo.height


def test_what_it_can_be_told(ours):
    image = ours.encode(photos()[0])
    options = {"max_tokens": 4}
    told = [image.describe("detailed", **options), image.describe("more detailed", **options)]
    told += [image.ocr(**options), image.ocr(places=True, **options), image.detect(**options)]
    told += [image.detect(described=True, **options), image.ground("a red dog", **options)]
    told += [image.tell("find", "the cat", **options)]
    prompts = [ours.prompt(answer.question) for answer in told]
    asked = [ours.tokenizer.decode([prompt.ids[i] for i in prompt.given]) for prompt in prompts]
    assert asked == [
        *(INSTRUCTIONS[name] for name in list(INSTRUCTIONS)[1:7]),
        "Locate the phrases in the caption: a red dog",
        "Locate the cat in the image.",
    ]
    assert image.ask("DETECT", **options).ids == told[4].ids
    assert image.ask("find: the cat", **options).ids == told[-1].ids
    whole = image.ask("detect")
    assert len(whole.ids) > 12 or whole.finished  # as long as a list of boxes, not as an answer
    with pytest.raises(QuestionError, match="not trained for 'sing'; it knows caption"):
        image.tell("sing")
    with pytest.raises(QuestionError, match="ground needs a text"):
        image.ground("  ")
    with pytest.raises(QuestionError, match="too long"):
        image.ask("dog " * 100)


@torch.inference_mode()
def test_openvino_reads_as_torch_does(ours):
    pytest.importorskip("openvino")
    from vlm.runtimes.openvino import compiled

    faster = Captioner(compiled(ours.model), ours.tokenizer)
    questions = ["is there a cat", "what is on the grass?"]
    for own, other in zip(ours.encode_all(photos()[:2]), faster.encode_all(photos()[:2])):
        expected = own.ask_all(questions, beams=3, max_tokens=6)
        actual = other.ask_all(questions, beams=3, max_tokens=6)
        assert [a.ids for a in actual] == [e.ids for e in expected]
        for one, two in zip(actual[0].maps(), expected[0].maps()):
            torch.testing.assert_close(one.weights, two.weights, atol=1e-4, rtol=1e-3)
        hidden = own.without((0, 0, 70, 40)).ask(questions[0], max_tokens=6)
        assert other.without((0, 0, 70, 40)).ask(questions[0], max_tokens=6).ids == hidden.ids


def test_boxes_are_drawn_beside_the_maps(case, ours, tmp_path):
    photo = photos()[0].resize((200, 120)).convert("L").convert("RGB")
    said = "dog<loc_250><loc_250><loc_500><loc_750>"
    ids = case[1].tokenizer(said, add_special_tokens=False).input_ids
    answer = ours.score_ids(ours.encode(photo), ids, "detect")
    drawn = torch.from_numpy(np.array(answer.overlay("dog", legend=False))).float()
    plain = torch.from_numpy(np.array(answer.overlay("dog", legend=False, places=()))).float()
    rows, columns = (drawn != plain).any(dim=2).nonzero().T
    left, top, right, bottom = answer.places[0].box
    assert (columns.min().item(), rows.min().item()) == pytest.approx((left, top), abs=2)
    assert rows.max().item() == pytest.approx(bottom, abs=2)
    assert columns.max().item() >= right - 2
    inside = (drawn == plain)[
        round(top) + 40 : round(bottom) - 3, round(left) + 4 : round(right) - 4
    ]
    assert inside.all()  # an outline, which hides nothing
    answer.save(tmp_path / "sheet.png")
    blue = np.array(Image.open(tmp_path / "sheet.png").convert("RGB")) == (0, 114, 178)
    assert blue.all(axis=2).any()


def test_requests_that_run_together_get_what_each_gets_alone(ours):
    images = ours.encode_all(photos())
    questions = ["what is there?", "is there a red dog on the grass, and a man?", "detect"]
    alone = [i.ask(q, max_tokens=6).ids for i, q in zip(images, questions)]
    captions = [image.caption(max_tokens=6).ids for image in images]
    with Engine(ours) as engine:
        engine.call("gate", lambda: time.sleep(0.3))  # while these come together
        asked = [engine.ask(q, i, q, max_tokens=6) for i, q in zip(images, questions)]
        told = [engine.caption(str(i), image, max_tokens=6) for i, image in enumerate(images)]
        assert [job.result().ids for job in asked] == alone
        assert [job.result().ids for job in told] == captions
