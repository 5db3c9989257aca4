"""What the importers' tests share: random reference models, and comparisons of ours with theirs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vlm.answers import Answer
from vlm.generate import generate
from vlm.model.decoder import Decoder, Projected
from vlm.options import Options
from vlm.tokenizer import Tokenizer

WORDS = ["a", "the", "red", "brown", "dog", "cat", "man", "sits", "runs", "on", "in", "grass"]
WORDS += ["is", "there", "what", "colour", "how", "many", "yes", "no", "two"]


def bert_vocabulary() -> dict[str, int]:
    """Special tokens, single letters and a few words, as BERT's vocabulary has them."""
    letters = "abcdefghijklmnopqrstuvwxyz?'.,0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    tokens += [word for word in WORDS if len(word) > 1]
    return {token: number for number, token in enumerate(tokens)}


@torch.no_grad()
def randomise(model: nn.Module, scale: float = 1.0, seed: int = 0) -> None:
    """Weights under which every part matters: wide matrices, norms off 1 and biases off 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            weight.copy_(noise * scale * weight.shape[-1] ** -0.5)
        elif "norm" in name.lower() or "ln_" in name:
            weight.copy_(noise * 0.2 + (1.0 if name.endswith("weight") else 0.0))
        else:
            weight.copy_(noise * 0.2)


def photos(count: int = 3) -> list[Image.Image]:
    """Pictures of different sizes, with edges at all scales."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for i in range(count):
        small = torch.randint(256, (9 + i, 13 - 2 * i, 3), generator=generator)
        picture = Image.fromarray(small.byte().numpy()).resize((150 - 20 * i, 90 + 30 * i), 0)
        pictures.append(picture)
    return pictures


@torch.inference_mode()
def layer_outputs(decoder: Decoder, ids: Tensor, projected: Projected) -> list[Tensor]:
    """Hidden states behind each layer, before the final norm: ever longer decoders."""
    layers = ["sm"] * decoder.config.text_layers + [decoder.config.pattern] * decoder.config.depth
    outputs = []
    for depth in range(1, len(layers) + 1):
        shallow = copy(decoder)
        shallow._modules = {**decoder._modules, "final_norm": nn.Identity()}
        shallow._modules["sublayers"] = decoder.sublayers[: len("".join(layers[:depth]))]
        outputs.append(shallow(ids, projected).hidden)
    return outputs


def words(
    decoder: Decoder,
    projected: Projected,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    beams: int,
    max_tokens: int,
) -> list[list[int]]:
    """The ids of each prompt's best text, without prompt and end."""
    options = Options(beams=beams, max_tokens=max_tokens)
    results = generate(decoder, projected, prompts, tokenizer.end, tokenizer.pad, options)
    return [list(hypotheses[0].ids) for hypotheses in results]


def their_words(
    sequences: Tensor, prompt: int, end: int, pad: int | None = None
) -> list[list[int]]:
    """The same of transformers' `generate`: behind the prompt, up to the end."""
    rows = []
    for ids in sequences[:, prompt:].tolist():
        rows.append(ids[: ids.index(end)] if end in ids else ids)
    return rows


def check_maps(answer: Answer, method: str, others: set[str]) -> None:
    """A map for each word, of shares that with those of other segments are at most 1, and not all are even."""
    maps = answer.maps(method=method)
    said = [m.text for m in maps if m.role != "question"]
    assert said == [word.text for word in answer.words]
    assert (len(said) < len(maps)) == (answer.question is not None)
    for word in maps:
        assert word.weights.isfinite().all()
        assert word.weights.min() >= 0
        assert word.weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert all(0 <= share <= 1 for share in word.elsewhere.values())
        assert word.mass + sum(word.elsewhere.values()) <= 1 + 1e-5
        assert method == "pixels" or word.elsewhere.keys() == others
    for role in {m.role for m in maps}:
        assert max(float(m.weights.std()) for m in maps if m.role == role) > 0
