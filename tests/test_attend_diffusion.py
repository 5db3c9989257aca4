"""Diffusion looked into: maps of a prompt's words are what the pipeline's attention was, and nothing else changes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from documentation import ROOT, blocks
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from vlm.attend import fused
from vlm.attend.diffusion import MadeImage, make_image
from vlm.attend.fused import shares_of_keys
from vlm.attend.source import AttendError

PROMPT = "a red dog, and a cat"
LETTERS = sorted(set(PROMPT) - {" "})


def clip_tokenizer() -> CLIPTokenizer:
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "do", "dog</w>"]
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab, [("d", "o"), ("do", "g</w>")], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁dog", -3.0)]
    return T5Tokenizer(vocab=vocab + [(letter, -8.0) for letter in LETTERS], extra_ids=0)


def clip_text(projected: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    size = len(clip_tokenizer())
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5_text(width: int) -> T5EncoderModel:
    size = len(t5_tokenizer())
    return T5EncoderModel(
        T5Config(vocab_size=size, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )


def autoencoder(channels: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        shift_factor=0.0,
    )


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False, steps_offset=1)


def grown(pipeline: Any) -> Any:
    """Weights large enough for attention to be uneven."""
    for part in (getattr(pipeline, "unet", None), getattr(pipeline, "transformer", None)):
        for name, weight in part.named_parameters() if part is not None else ():
            if ("attn" in name) and weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.7)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stable_diffusion() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    parts = (autoencoder(), clip_text(), clip_tokenizer(), unet, scheduler(), None, None)
    return grown(StableDiffusionPipeline(*parts, requires_safety_checker=False))


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return grown(
        StableDiffusion3Pipeline(
            transformer,
            FlowMatchEulerDiscreteScheduler(),
            autoencoder(),
            clip_text(True),
            clip_tokenizer(),
            clip_text(True),
            clip_tokenizer(),
            t5_text(16),
            t5_tokenizer(),
        )
    )


def flux() -> FluxPipeline:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    )
    return grown(
        FluxPipeline(
            FlowMatchEulerDiscreteScheduler(),
            autoencoder(),
            clip_text(),
            clip_tokenizer(),
            t5_text(16),
            t5_tokenizer(),
            transformer,
        )
    )


MAKERS = {"sd": stable_diffusion, "sd3": stable_diffusion_3, "flux": flux}
SIZE = {"width": 32, "height": 16, "num_inference_steps": 2}


@pytest.fixture(scope="module", params=MAKERS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline that has been saved in its library's format, and loaded."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    pipeline = MAKERS[request.param]()
    pipeline.save_pretrained(folder)
    loaded = type(pipeline).from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def made(pipeline: Any, words: list[str] | None = None, **options: Any) -> MadeImage:
    options = {**SIZE, "generator": torch.Generator().manual_seed(1), **options}
    return make_image(pipeline, PROMPT, words, **options)


def model_of(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def test_every_word_has_a_map_over_the_image(saved: Any, tmp_path: Path) -> None:
    result = made(saved)
    assert result.words == ("a", "red", "dog", "and", "a", "cat")
    assert result.left_out == ()
    maps = result.maps()
    assert [word.text for word in maps] == list(result.words)
    assert {word.role for word in maps} == {"prompt"}
    high, wide = maps[0].grid
    assert wide == 2 * high  # the image's shape
    assert not torch.allclose(maps[1].weights, maps[2].weights)
    assert result.overlay("Dog", style="contour", legend=False).size == (32, 16)
    for name in ("words.png", "words.webp", "words.html", "words.npz"):
        result.save(tmp_path / name)


def test_the_image_is_the_one_that_the_pipeline_makes_and_nothing_stays_behind(saved: Any) -> None:
    model = model_of(saved)
    before = [type(p) for p in model.attn_processors.values()]
    plain = saved(prompt=PROMPT, generator=torch.Generator().manual_seed(1), **SIZE).images[0]
    assert made(saved).image.tobytes() == plain.tobytes()
    assert [type(p) for p in model.attn_processors.values()] == before
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_asked_words_alone_have_the_maps_that_they_have_among_all(saved: Any) -> None:
    every, some = made(saved), made(saved, ["cat", "a"])
    assert some.words == ("a", "a", "cat")
    for layer, sums in some.sums.items():
        torch.testing.assert_close(sums, every.sums[layer][[0, 4, 5]])


def test_parts_of_the_queries_are_as_good_as_all(saved: Any, monkeypatch: Any) -> None:
    whole = made(saved)
    monkeypatch.setattr(fused, "BUDGET", 700)
    for layer, sums in made(saved).sums.items():
        torch.testing.assert_close(sums, whole.sums[layer])


class Written(AttnProcessor):
    """Plain attention that keeps its probabilities, as DAAM's reference does."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        scores = attn.get_attention_scores

        def keep(*given: Any) -> torch.Tensor:
            self.kept.append(scores(*given))
            return self.kept[-1]

        attn.get_attention_scores = keep
        try:
            return super().__call__(attn, *args, **kwargs)
        finally:
            del attn.get_attention_scores


def test_maps_of_a_unet_are_its_probabilities() -> None:
    """The second half of a batch is the one with the prompt; "dog" is one token there, "red" three."""
    pipeline = stable_diffusion()
    found = made(pipeline, ["red", "dog"], guidance_scale=4.0)
    layers = [n for n in pipeline.unet.attn_processors if "attn2" in n]
    writers = {n: Written() for n in layers}
    pipeline.unet.set_attn_processor(
        {n: writers.get(n, p) for n, p in pipeline.unet.attn_processors.items()}
    )
    pipeline(prompt=PROMPT, guidance_scale=4.0, generator=torch.Generator().manual_seed(1), **SIZE)
    ids = pipeline.tokenizer(PROMPT)["input_ids"]
    pieces = pipeline.tokenizer.convert_ids_to_tokens(ids)
    red, dog = [pieces.index("r") + i for i in range(3)], [pieces.index("dog</w>")]
    expected = []
    for name in layers:
        kept = torch.stack(writers[name].kept)  # (steps, 2 * heads, P, K)
        heads = kept[:, kept.shape[1] // 2 :].sum(0).mean(0)  # (P, K)
        expected.append(torch.stack([heads[:, red].sum(1), heads[:, dog].sum(1)]))
    for sums in found.sums.values():
        close = [
            sums.shape == other.shape and torch.allclose(sums, other, atol=1e-4)
            for other in expected
        ]
        assert sum(close) == 1


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_joint_attention_finds_the_token_that_every_patch_wants(name: str) -> None:
    """One text token has the key that all queries ask for: T5's "dog", behind what CLIP wrote where there is that."""
    pipeline = MAKERS[name]()
    tokenizer = pipeline.tokenizer_3 if name == "sd3" else pipeline.tokenizer_2
    ids = tokenizer(PROMPT)["input_ids"]
    place = tokenizer.convert_ids_to_tokens(ids).index("▁dog") + (77 if name == "sd3" else 0)

    def planted(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        keys = torch.zeros_like(output)
        keys[:, place] = 50.0
        return keys

    def wanted(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, 3.0)

    def unwanted(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, -3.0)

    joint = [m for m in pipeline.transformer.modules() if getattr(m, "add_k_proj", None)]
    for attention in joint:
        attention.add_k_proj.register_forward_hook(planted)
        attention.to_q.register_forward_hook(wanted)
        attention.to_k.register_forward_hook(unwanted)
    found = made(pipeline, ["red", "dog", "cat"], max_sequence_length=32)
    shares = torch.stack([found.sums[layer].mean(dim=1) for layer in range(len(joint))])
    assert (shares[:, 1] > 2 * shares[:, 0]).all()
    assert (shares[:, 1] > 2 * shares[:, 2]).all()


def test_the_example_of_the_documentation(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "explanations.md").read_text()
    (example,) = [code for code in blocks(page, "python") if "make_image" in code]
    stable_diffusion().save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    code = example.replace("stable-diffusion-v1-5/stable-diffusion-v1-5", "tiny")
    assert code != example
    exec(code.replace("num_inference_steps=25", "num_inference_steps=2"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "dog.png", "words.html"}
    assert "dog (" in capsys.readouterr().out


def test_a_pipeline_that_shares_the_model_is_not_seen() -> None:
    """Another thread runs the same UNet while the first is looked into."""
    pipeline = stable_diffusion()
    other = StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    alone = made(pipeline)

    def run_other(*_: Any) -> dict[str, Any]:
        options = {**SIZE, "generator": torch.Generator().manual_seed(5)}
        thread = threading.Thread(target=lambda: other(prompt="cat cat cat", **options))
        thread.start()
        thread.join()
        return {}

    other.scheduler = scheduler()
    beside = made(pipeline, callback_on_step_end=run_other)
    for layer, sums in beside.sums.items():
        torch.testing.assert_close(sums, alone.sums[layer])


def test_words_that_were_cut_off_are_named() -> None:
    pipeline = stable_diffusion()
    prompt = "dog " * 80 + "cat"
    result = make_image(pipeline, prompt, **SIZE)
    assert set(result.words) == {"dog"}
    assert len(result.words) == 75
    assert result.left_out == ("dog",) * 5 + ("cat",)
    with pytest.raises(AttendError, match="'cat' is no word that was read"):
        make_image(pipeline, prompt, ["cat"], **SIZE)


@pytest.mark.parametrize(
    ("prompt", "words", "options", "sentence"),
    [
        (PROMPT, ["zebra"], {}, "'zebra' is no word that was read; these are: a, red, dog"),
        (["a", "b"], None, {}, "give one prompt"),
        (" ", None, {}, "the prompt has no words"),
        (PROMPT, None, {"num_images_per_prompt": 2}, "num_images_per_prompt is not to be chosen"),
        (PROMPT, None, {"output_type": "latent"}, "output_type is not to be chosen"),
    ],
)
def test_refusals(prompt: Any, words: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AttendError, match=sentence):
        make_image(stable_diffusion(), prompt, words, **SIZE, **options)


def test_pipelines_that_cannot_be_looked_into() -> None:
    sliced = stable_diffusion()
    sliced.enable_attention_slicing()
    with pytest.raises(AttendError, match="no call of torch's fused attention"):
        made(sliced)
    with pytest.raises(AttendError, match="object is not looked into"):
        make_image(object(), PROMPT)


@pytest.mark.parametrize("mask", ["none", "added", "bool"])
def test_shares_are_those_of_a_softmax(mask: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(fused, "BUDGET", 60)
    torch.manual_seed(0)
    query, key = torch.randn(2, 7, 4), torch.randn(2, 9, 4)
    given = {
        "none": None,
        "added": torch.randn(1, 1, 9),
        "bool": torch.rand(1, 7, 9) > 0.3,
    }[mask]
    # Values that are one-hot bring the fused call's own shares out.
    values = torch.eye(9).expand(2, 9, 9)
    expected = F.scaled_dot_product_attention(query, key, values, given, scale=0.7)
    found = shares_of_keys(query, key, torch.tensor([8, 0]), given, 0.7)
    np.testing.assert_allclose(found, expected[..., [8, 0]], atol=1e-5)
