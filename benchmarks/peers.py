"""Models of transformers with random weights, in the published sizes or tiny, saved as the hub has them.

What is slow does not depend on what the weights say, and the words are noise, but the same noise on both sides.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GPT2Config,
    GPT2Tokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    RobertaTokenizer,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

from benchmarks.timing import Ids, Run, between_tokens
from vlm.weights.florence import ADDED, INSTRUCTIONS

QUESTIONS = [
    "is there a dog?",
    "what colour is the dog?",
    "how many people are in the picture?",
    "what is the man on the left holding?",
    "is it day or night?",
    "where was this picture taken?",
    "what is behind the horses?",
    "are there any trees?",
    "what is on the table next to the cup?",
    "who is looking at the camera?",
]

_VIT_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_VIT_TINY |= {"intermediate_size": 48, "image_size": 48}
_BERT_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
_GPT2_TINY = {"n_embd": 32, "n_layer": 2, "n_head": 4}
_DAVIT_TINY = {"embed_dim": [8, 16, 24, 32], "num_heads": [2, 2, 3, 4], "num_groups": [2, 2, 3, 4]}
_DAVIT_TINY |= {"depths": [1, 1, 2, 1], "window_size": 4, "projection_dim": 32}


@dataclass(frozen=True)
class Peer:
    """A model of transformers, with its preprocessing; `encoder` names its vision part.

    Attention is fused where transformers has it for the model, which is its default. `prompt` is what a caption's
    words follow, beside the image, and `given` how many tokens its texts begin with that are no words.
    """

    model: Any
    encoder: str
    processor: Any
    tokenizer: Any
    end: int
    prompt: Mapping[str, Tensor] = field(default_factory=dict)
    given: int = 1

    def half(self) -> Peer:
        """The same in bfloat16, as transformers loads it with `dtype=torch.bfloat16`."""
        return replace(self, model=deepcopy(self.model).to(torch.bfloat16))

    def quantised(self) -> Peer:
        """The same with linear layers of 8-bit products, as torch's own quantisation makes them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it will leave torch
            model = torch.ao.quantization.quantize_dynamic(deepcopy(self.model), {nn.Linear})
        return replace(self, model=model)

    def pixels(self, pictures: list[Image.Image]) -> Tensor:
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        return pixels.to(self.model.dtype)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> None:
        self.model.get_submodule(self.encoder)(pixels)

    @torch.inference_mode()
    def caption(self, pictures: list[Image.Image], beams: int, tokens: int) -> Ids:
        """The best caption of each picture, of as many tokens."""
        inputs = {"pixel_values": self.pixels(pictures), **self.prompt}
        options = _options(beams, self.given - 1 + tokens)
        return self._written(self.model.generate(**inputs, **options))

    @torch.inference_mode()
    def token(self, pixels: Tensor, beams: int, tokens: int) -> Run:
        """Milliseconds a token of a caption, once the image is encoded and the first token is there."""
        clock = Clock()
        options = _options(beams, tokens) | {"logits_processor": LogitsProcessorList([clock])}
        ids = self._written(self.model.generate(pixels, **options))
        return Run(between_tokens(clock.times), ids)

    @torch.inference_mode()
    def answer_each(
        self, picture: Image.Image, questions: list[str], beams: int, tokens: int
    ) -> Ids:
        """Question by question, which is how answers do not depend on the other questions."""
        pixels, options = self.pixels([picture]), _options(beams, tokens)
        asked = [self.tokenizer(question, return_tensors="pt").input_ids for question in questions]
        return [self._written(self.model.generate(ids, pixels, **options))[0] for ids in asked]

    @torch.inference_mode()
    def answer_all(
        self, picture: Image.Image, questions: list[str], beams: int, tokens: int
    ) -> Ids:
        """In one batch over one image; shorter questions are padded, which changes their answers."""
        asked = self.tokenizer(questions, padding=True, return_tensors="pt")
        sequences = self.model.generate(
            asked.input_ids,
            self.pixels([picture]),
            attention_mask=asked.attention_mask,
            **_options(beams, tokens),
        )
        return self._written(sequences)

    def _written(self, sequences: Tensor) -> Ids:
        """Token ids behind the given ones, up to the end."""
        rows = sequences[:, self.given :].tolist()
        return [ids[: ids.index(self.end)] if self.end in ids else ids for ids in rows]


class Clock(LogitsProcessor):
    """Notes the moment at which each token's logits are there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.times.append(time.perf_counter())
        return scores


def _options(beams: int, tokens: int) -> dict[str, Any]:
    return {
        "num_beams": beams,
        "min_new_tokens": tokens,
        "max_new_tokens": tokens,
        "do_sample": False,
        "use_cache": True,
    }


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Weights so large that the words depend on the image, on each other and on every part of the model."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight.shape[-1] ** -0.5, generator=generator)
        else:
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)


def blip(folder: Path, tiny: bool = False, answers: bool = False) -> Peer:
    """Salesforce/blip-image-captioning-base, or blip-vqa-base when it `answers`."""
    tokenizer = _bert_tokenizer(400 if tiny else 30_522)
    end = tokenizer.sep_token_id
    text = {"vocab_size": len(tokenizer) + 2, "bos_token_id": len(tokenizer), "sep_token_id": end}
    text |= {"num_attention_heads": 4 if tiny else 12, **(_BERT_TINY if tiny else {})}
    if tiny:
        text["encoder_hidden_size"] = _VIT_TINY["hidden_size"]
    config = BlipConfig(text_config=text, vision_config=_VIT_TINY if tiny else {})
    family = BlipForQuestionAnswering if answers else BlipForConditionalGeneration
    model = family(config).eval()
    randomise(model)
    size = config.vision_config.image_size
    processor = BlipImageProcessorPil(size={"height": size, "width": size})
    model.save_pretrained(folder)
    BlipProcessor(processor, tokenizer).save_pretrained(folder)
    return Peer(model, "vision_model", processor, tokenizer, end)


def vit_gpt2(folder: Path, tiny: bool = False) -> Peer:
    """nlpconnect/vit-gpt2-image-captioning."""
    tokenizer = _gpt2_tokenizer(400 if tiny else 50_257)
    end = tokenizer.eos_token_id
    vision = ViTConfig(**(_VIT_TINY if tiny else {}))
    text = GPT2Config(
        vocab_size=len(tokenizer),
        bos_token_id=end,
        eos_token_id=end,
        **(_GPT2_TINY if tiny else {}),
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    model = VisionEncoderDecoderModel(config=config).eval()
    randomise(model)
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, end)
    processor = ViTImageProcessorPil(size={"height": vision.image_size, "width": vision.image_size})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Peer(model, "encoder", processor, tokenizer, end)


def florence(folder: Path, tiny: bool = False) -> Peer:
    """florence-community/Florence-2-base at 768 px, which is told to caption."""
    tokenizer = _bart_tokenizer(400 if tiny else 50_265)
    end = tokenizer.eos_token_id
    width, depth, size = (32, 2, 96) if tiny else (768, 6, 768)
    text = {"model_type": "bart", "vocab_size": len(tokenizer), "d_model": width}
    for part in ("encoder", "decoder"):
        text |= {f"{part}_layers": depth, f"{part}_ffn_dim": 4 * width}
        text |= {f"{part}_attention_heads": 4 if tiny else 12}
    config = Florence2Config(
        vision_config=_DAVIT_TINY if tiny else {"projection_dim": width},
        text_config=text,
        image_token_id=tokenizer.image_token_id,
    )
    model = Florence2ForConditionalGeneration(config).eval()
    randomise(model)
    for name, value in {"decoder_start_token_id": end, "forced_bos_token_id": 0}.items():
        setattr(model.generation_config, name, value)
    model.generation_config.forced_eos_token_id = None
    images = CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False)
    images.image_seq_length = 1 + (size // 32) ** 2
    processor = Florence2Processor(images, tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    words = tokenizer(INSTRUCTIONS["caption"], return_tensors="pt").input_ids
    slots = torch.full((1, images.image_seq_length), tokenizer.image_token_id)
    ids = torch.cat([slots, words], dim=1)
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Peer(model, "model.vision_tower", images, tokenizer, end, prompt, given=2)


def _bart_tokenizer(size: int) -> RobertaTokenizer:
    """Single bytes and BART's special tokens, filled up, and behind them what Florence-2's processor adds."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"filler{i}" for i in range(size - len(tokens) - 1)] + ["<mask>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = RobertaTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens([*ADDED, "<image>"], special_tokens=True)
    tokenizer.image_token = "<image>"
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    return tokenizer


def _bert_tokenizer(size: int) -> BertTokenizer:
    """BERT's special tokens, single letters and the questions' words, filled up with words that nobody asks."""
    letters = "abcdefghijklmnopqrstuvwxyz?"
    words = sorted({word for question in QUESTIONS for word in question.strip("?").split()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    tokens += [word for word in words if len(word) > 1]
    tokens += [f"filler{i}" for i in range(size - len(tokens))]
    return BertTokenizer({token: number for number, token in enumerate(tokens)})


def _gpt2_tokenizer(size: int) -> GPT2Tokenizer:
    """Single bytes, filled up with tokens that no text makes; the end comes last, as in GPT-2."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += [f"filler{i}" for i in range(size - len(tokens) - 1)] + ["<|endoftext|>"]
    return GPT2Tokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
