from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from parity import check_maps, layer_outputs, photos, randomise, words
from safetensors.torch import load_file
from test_hub import cached
from torch import Tensor
from transformers import CLIPTokenizer

from vlm.captioner import Captioner
from vlm.explain.maps import METHODS
from vlm.prompts import caption_prompt
from vlm.weights import CheckpointError, coca
from vlm.weights.convert import read_foreign

MERGES = 300
VOCABULARY = 512 + MERGES + 2
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 8,
        "patch_size": 8,
        "attentional_pool": True,
        "attn_pooler_queries": 7,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 20,
        "vocab_size": VOCABULARY,
        "width": 24,
        "heads": 4,
        "layers": 2,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 20,
        "vocab_size": VOCABULARY,
        "width": 24,
        "heads": 4,
        "layers": 2,
        "attn_pooler_heads": 4,
    },
    "custom_text": True,
}


@pytest.fixture(scope="module")
def their_tokenizer(tmp_path_factory) -> SimpleTokenizer:
    """open_clip's, of its first few merges."""
    file = tmp_path_factory.mktemp("bpe") / "bpe.txt.gz"
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as whole:
        lines = whole.read().split("\n")[: MERGES + 1]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return SimpleTokenizer(str(file))


def hub_tokenizer(theirs: SimpleTokenizer) -> CLIPTokenizer:
    """The same as the hub's repositories have it: transformers', with OpenAI's names of start and end."""
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in theirs.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(theirs.bpe_ranks))


@pytest.fixture(scope="module")
def reference() -> open_clip.CoCa:
    parts = {k: v for k, v in CONFIG.items() if k != "custom_text"}
    model = open_clip.CoCa(**parts).eval()
    randomise(model, 2.0)
    # What `create_model` notes for those who save.
    model.visual.image_mean, model.visual.image_std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    return model


@pytest.fixture(scope="module")
def folder(reference, their_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("coca")
    save_for_hf(reference, hub_tokenizer(their_tokenizer), CONFIG, str(folder))
    return folder


@pytest.fixture(scope="module")
def ours(folder) -> Captioner:
    return Captioner(*read_foreign(folder))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    transform = open_clip.image_transform(32, is_train=False)
    return torch.stack([transform(picture) for picture in photos()])


def test_the_same_pixels(ours, pixels):
    """To one grey level, and that at one pixel in a hundred: torchvision resizes first and crops then, ours at once."""
    actual = torch.stack([ours.preprocess(picture)[0] for picture in photos()])
    std = torch.tensor(ours.preprocess.std).view(3, 1, 1)
    difference = (actual - pixels).abs() * std * 255
    assert difference.max() < 1.01
    assert (difference > 0.01).float().mean() < 0.01


@pytest.mark.parametrize("text", ["a red dog runs", "There's a  CAT, 12 of them!", "naïve 🐕"])
def test_the_same_ids(ours, their_tokenizer, text):
    expected = their_tokenizer.encode(text)
    assert ours.tokenizer.encode(text) == expected
    assert ours.tokenizer.decode(expected) == their_tokenizer.decode(expected).strip()
    assert ours.tokenizer.caption == their_tokenizer.sot_token_id
    assert ours.tokenizer.end == their_tokenizer.eot_token_id


@torch.inference_mode()
def test_the_same_encoder_states(reference, ours, pixels):
    _, expected = reference.visual(pixels)
    memory = ours.model.encode(pixels)
    torch.testing.assert_close(memory.tokens, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_same_layers_and_logits(reference, ours, pixels):
    ids = torch.randint(1, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(0))
    theirs = []
    blocks = [*reference.text.transformer.resblocks, *reference.text_decoder.cross_attn]
    handles = [
        block.register_forward_hook(lambda _, __, output: theirs.append(output)) for block in blocks
    ]
    expected = reference(pixels, ids, output_labels=False)["logits"]
    for handle in handles:
        handle.remove()
    projected = ours.model.decoder.project(ours.model.encode(pixels))
    layers = layer_outputs(ours.model.decoder, ids, projected)
    for actual, states in zip(layers, theirs, strict=True):
        # The text tower has one position more, for retrieval.
        torch.testing.assert_close(actual, states[:, :11], atol=1e-4, rtol=1e-4)
    logits = ours.model.decoder.logits(ours.model.decoder(ids, projected).hidden)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def their_words(model, pixels: Tensor, start: int, end: int, beams: int, length: int) -> list[int]:
    """Beam search over open_clip's forward, written plainly: its own `generate` needs an older transformers."""
    running, finished = [((), 0.0)], []
    for step in range(1, length + 1):
        texts = torch.tensor([[start, *ids] for ids, _ in running])
        images = pixels[None].expand(len(running), -1, -1, -1)
        logprobs = model(images, texts, output_labels=False)["logits"][:, -1].log_softmax(dim=-1)
        grown = [
            ((*ids, token), total + logprob)
            for (ids, total), row in zip(running, logprobs.tolist())
            for token, logprob in enumerate(row)
        ]
        grown.sort(key=lambda item: -item[1])
        running = []
        for rank, (ids, total) in enumerate(grown[: 2 * beams]):
            if ids[-1] == end or step == length:
                if rank < beams:
                    finished.append((total / step, ids))
            elif len(running) < beams:
                running.append((ids, total))
        finished = sorted(finished, reverse=True)[:beams]
        if len(finished) == beams and running and running[0][1] / step <= finished[-1][0]:
            break
    return [token for token in finished[0][1] if token != end]


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_words(reference, ours, pixels, beams):
    model, tokenizer = ours.model, ours.tokenizer
    expected = [
        their_words(reference, image, tokenizer.caption, tokenizer.end, beams, 10)
        for image in pixels
    ]
    prompts = [list(caption_prompt(tokenizer).ids)] * 3
    projected = model.decoder.project(model.encode(pixels))
    assert words(model.decoder, projected, tokenizer, prompts, beams, 10) == expected
    assert len({tuple(ids) for ids in expected}) > 1, "the words must depend on the image"
    for row in range(3):
        alone = projected.select(torch.tensor([row]))
        assert words(model.decoder, alone, tokenizer, prompts[:1], beams, 10) == [expected[row]]


@torch.inference_mode()
def test_a_map_is_two_hops(reference, ours, pixels):
    """The word's attention to the pooled queries, times theirs to the patches."""
    pool = reference.visual.attn_pool
    states = pool.ln_k(reference.visual.transformer(reference.visual._embeds(pixels[:1])))
    queries = pool.ln_q(pool.query)[None]
    _, expected = pool.attn(queries, states, states, average_attn_weights=True)
    memory = ours.model.encode(pixels[:1])
    # Without the retrieval's query and the class token.
    torch.testing.assert_close(memory.lift, expected[:, 1:, 1:], atol=1e-5, rtol=1e-4)
    image = ours.encode(photos()[0])
    for word in image.explain("a red dog").maps():
        assert word.grid == (4, 4)
        assert word.weights.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", sorted({*METHODS} - {"logit"}))
def test_every_method_explains_over_two_hops(ours, method):
    others = {"class"} if method == "relevance" else set()
    check_maps(ours.encode(photos()[0]).explain("a red dog"), method, others)


@torch.inference_mode()
def test_an_exclamation_mark_hides_the_token_behind_it_in_theirs(reference, ours, pixels):
    """open_clip pads with token 0, which is "!", and masks what follows one; ours reads it like any token."""
    projected = ours.model.decoder.project(ours.model.encode(pixels[:1]))
    plain, exclaimed = torch.tensor([[50, 7, 60, 61]]), torch.tensor([[50, 0, 60, 61]])
    for ids, same in ((plain, True), (exclaimed, False)):
        theirs = reference(pixels[:1], ids, output_labels=False)["logits"]
        logits = ours.model.decoder.logits(ours.model.decoder(ids, projected).hidden)
        torch.testing.assert_close(logits[:, :2], theirs[:, :2], atol=1e-4, rtol=1e-4)
        assert torch.allclose(logits[:, 2:], theirs[:, 2:], atol=1e-3) == same


@pytest.mark.parametrize(
    ("part", "changes", "named"),
    [
        ("text_cfg", {"embed_cls": False}, "embed_cls"),
        ("text_cfg", {"heads": 2}, "heads"),
        ("vision_cfg", {"attentional_pool": "parallel"}, "attentional_pool"),
        ("vision_cfg", {"layers": 3}, r"resblocks\.2"),
        ("vision_cfg", {"layers": 1}, r"resblocks\.1"),
        ("multimodal_cfg", {"context_length": 40}, "context_length"),
    ],
)
def test_what_is_unknown_or_does_not_fit_is_named(folder, tmp_path, part, changes, named):
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    config = json.loads((own / "open_clip_config.json").read_text())
    config["model_cfg"][part] |= changes
    (own / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=named):
        read_foreign(own)


@pytest.fixture
def published(folder, tmp_path, monkeypatch) -> Path:
    """A folder as LAION's: weights alone, as training on several devices saved them; the hub's cache is empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(coca, "_PUBLISHED", {CONFIG["text_cfg"]["width"]: CONFIG})
    weights = load_file(folder / "open_clip_model.safetensors")
    saved = {
        "epoch": 1,
        "state_dict": {f"module.{name}": tensor for name, tensor in weights.items()},
    }
    (tmp_path / "published").mkdir()
    torch.save(saved, tmp_path / "published" / "open_clip_pytorch_model.bin")
    return tmp_path / "published"


def test_weights_alone_take_open_clips_configuration_and_clips_tokenizer(
    published, folder, ours, tmp_path
):
    with pytest.raises(CheckpointError, match="openai/clip-vit-large-patch14"):
        read_foreign(published)
    (tmp_path / "clip").mkdir()
    shutil.copy(folder / "tokenizer.json", tmp_path / "clip")
    cached(tmp_path / "hub", "openai/clip-vit-large-patch14", tmp_path / "clip")
    model, tokenizer = read_foreign(published)
    expected = ours.model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert model.config == ours.model.config
    assert tokenizer.encode("a red dog") == ours.tokenizer.encode("a red dog")


def test_weights_alone_that_are_not_cocas_are_refused(published):
    for name, named in (("visual.proj", "open_clip's CLIP without a decoder"), ("x", "not CoCa's")):
        torch.save({name: torch.ones(2)}, published / "open_clip_pytorch_model.bin")
        with pytest.raises(CheckpointError, match=named):
            read_foreign(published)
    weights = {
        "text.token_embedding.weight": torch.ones(3, 7),
        "text_decoder.text_projection": torch.ones(7, 3),
    }
    torch.save(weights, published / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="coca_ViT-B-32"):
        read_foreign(published)


@pytest.mark.parametrize(("name", "width"), [("coca_ViT-B-32", 512), ("coca_ViT-L-14", 768)])
def test_the_published_configurations_are_open_clips(name, width):
    theirs, ours = open_clip.get_model_config(name), coca._PUBLISHED[width]
    unread = {"output_tokens", "attn_pooler_heads"}  # the heads: of the text
    for part, defaults in (
        ("vision_cfg", coca._VISION),
        ("text_cfg", coca._TEXT),
        ("multimodal_cfg", coca._TEXT),
    ):
        read = {**defaults, **ours[part]}
        assert {k: read[k] for k in theirs[part] if k not in unread} == {
            k: v for k, v in theirs[part].items() if k not in unread
        }
    assert theirs["vision_cfg"]["attn_pooler_heads"] == coca._VISION["attn_pooler_heads"]
    assert ours["embed_dim"] == theirs["embed_dim"]
