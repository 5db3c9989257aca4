"""Models of transformers with random weights, in the published sizes or tiny, saved as the hub has them.

What is slow does not depend on what the weights say, and the words are noise, but the same noise on both sides.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    GPT2Config,
    GPT2Tokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

from benchmarks.timing import Ids, Run, between_tokens

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


@dataclass(frozen=True)
class Peer:
    """A model of transformers in float32, with its preprocessing; `encoder` is its vision part.

    Attention is fused where transformers has it for the model, which is its default.
    """

    model: Any
    encoder: Any
    processor: Any
    tokenizer: Any
    end: int

    def pixels(self, pictures: list[Image.Image]) -> Tensor:
        return self.processor(images=pictures, return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> None:
        self.encoder(pixels)

    @torch.inference_mode()
    def caption(self, pictures: list[Image.Image], beams: int, tokens: int) -> Ids:
        """The best caption of each picture, of as many tokens."""
        return self._written(self.model.generate(self.pixels(pictures), **_options(beams, tokens)))

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
        """Token ids behind the start token, up to the end."""
        rows = sequences[:, 1:].tolist()
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
    return Peer(model, model.vision_model, processor, tokenizer, end)


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
    return Peer(model, model.encoder, processor, tokenizer, end)


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
