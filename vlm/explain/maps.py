"""One map for each word: where the decoder looked as it wrote it, from a second, teacher-forced pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlm.model.decoder import Projected
from vlm.model.memory import Memory
from vlm.model.model import VisionLanguageModel
from vlm.tokenizer import Tokenizer

Role = Literal["caption", "question", "answer"]


@dataclass(frozen=True)
class WordMap:
    """Where one word looked: `weights` `(h, w)` over the image's patches, summing to 1."""

    text: str
    role: Role
    weights: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        return self.weights.shape[0], self.weights.shape[1]


@torch.inference_mode()
def word_maps(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    memory: Memory,
    ids: Sequence[int],
    question: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    projected: Projected | None = None,
) -> list[WordMap]:
    """Maps of a caption's words, or of a question's and then its answer's, for one image (`memory` of batch 1).

    `ids` are the text's tokens without prompt and end. `layer` and `head` pick one cross-attention sublayer and
    head of the decoder, counted from 0; by default all are averaged. `projected` is the memory's projection, where
    it has been made before. Raises ValueError when there is no such layer or head.
    """
    if projected is None:
        projected = model.project(memory)
    if question is None:
        prompt = tokenizer.caption_prompt()
        by_token = token_maps(model, memory, [*prompt, *ids], layer, head, projected)  # (T, h, w)
        return _join(tokenizer, ids, by_token[len(prompt) :], "caption")
    asked, prompt = tokenizer.encode(question), tokenizer.question_prompt(question)
    if model.reader is None:
        of_question = by_token = token_maps(model, memory, [*prompt, *ids], layer, head, projected)
    else:
        # Two hops: the answer's words draw on the question's, and those on the patches as they were read.
        memory = model.read(projected, [prompt], image=memory)
        each = torch.eye(len(prompt), device=model.device)[None]  # (1, T, T)
        of_question = _normalised(memory.on_patches(each))[0]
        prompt = tokenizer.caption_prompt()
        by_token = token_maps(model, memory, [*prompt, *ids], layer, head)
    # The question's words begin behind the token that announces it.
    maps = _join(tokenizer, asked, of_question[1 : 1 + len(asked)], "question")
    return maps + _join(tokenizer, ids, by_token[len(prompt) :], "answer")


@torch.inference_mode()
def token_maps(
    model: VisionLanguageModel,
    memory: Memory,
    ids: Sequence[int],
    layer: int | None = None,
    head: int | None = None,
    projected: Projected | None = None,
) -> Tensor:
    """Where each token of a whole sequence looked as it was chosen, `(T, h, w)`, each summing to 1.

    The pass over row i predicts token i + 1, so row i explains token i + 1; this is the one place that knows it.
    The first token is given, not chosen, and gets the map of its own row.
    """
    _check("layer", layer, model.config.decoder.sublayers.count("c"))
    _check("head", head, model.config.decoder.heads)
    rows = torch.tensor([list(ids)], device=model.device)
    if projected is None:
        projected = model.decoder.project(memory)
    decoded = model.decoder(rows, projected, explicit=True)
    attention = torch.stack(decoded.cross_attention)  # (L, 1, H, T, S)
    attention = attention.mean(dim=0) if layer is None else attention[layer]
    attention = attention.mean(dim=1) if head is None else attention[:, head]
    patches = _normalised(memory.on_patches(attention))[0]  # (T, h, w)
    return torch.cat([patches[:1], patches[:-1]])


def _normalised(patches: Tensor) -> Tensor:
    """Maps that sum to 1: all patches alike where the attention fell on none, but on a class token, say."""
    total = patches.sum(dim=(-2, -1), keepdim=True)
    alike = torch.full_like(patches, 1 / (patches.shape[-2] * patches.shape[-1]))
    return torch.where(total > 0, patches / total, alike)


def _join(
    tokenizer: Tokenizer, ids: Sequence[int], token_maps: Tensor, role: Role
) -> list[WordMap]:
    """A word's map is the mean of its tokens'."""
    return [
        WordMap(word.text, role, token_maps[list(word.tokens)].mean(dim=0))
        for word in tokenizer.words(ids)
    ]


def _check(name: str, value: int | None, count: int) -> None:
    if value is not None and not 0 <= value < count:
        raise ValueError(f"{name} must be 0 to {count - 1} for this model, not {value}")
