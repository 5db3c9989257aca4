"""A model as two ONNX graphs that other programs can run: an image to what words look at, and one more token."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from vlm.errors import UserError, how_to_install
from vlm.model.memory import Memory
from vlm.model.model import VisionLanguageModel
from vlm.model.tags import NO_TOKEN
from vlm.tokenizer import Tokenizer

OPSET = 18


class ExportError(UserError):
    """A model that cannot be exported; the message says why."""


class _Encoder(nn.Module):
    """Pixels `(1, 3, H, W)` to cross keys and values `(L, 1, heads, S, D / heads)` and the real slots `(1, S)`.

    With tags also to the tokens of the sure ones, `(top, length)`, NO_TOKEN in what is left over.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        patches, grid = self.model.vision(pixels)
        memory: Memory = self.model.remember(patches, grid)
        layers = self.model.project(memory).layers
        keys, values = (torch.stack(kind) for kind in zip(*layers))
        # A trace takes the places of patches, which are constants, for doubles; by way of them it writes the cast.
        projected = keys.double().float(), values.double().float(), memory.real
        tagger = self.model.tagger
        if tagger is None:
            return projected
        tags = tagger.classify(patches)
        sure = tags.probabilities[0, :, None] >= tagger.config.sure  # (top, 1)
        return *projected, tagger.tokens[tags.names[0]].where(sure, NO_TOKEN)


class _Step(nn.Module):
    """One token `(R, 1)` at its position `(1,)` to the next one's logits `(R, V)`; the cache grows by one.

    The cache is `(L, R, heads, P, D / heads)` of keys and of values.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self,
        ids: Tensor,
        position: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        cross = tuple(zip(keys.unbind(), values.unbind()))
        past = tuple(zip(past_keys.unbind(), past_values.unbind()))
        looked = mask[:, None, None, :]
        decoded = self.decoder.run(ids, position, cross, past, None, looked, explicit=False)
        grown_keys, grown_values = (torch.stack(kind) for kind in zip(*decoded.cache))
        return self.decoder.logits(decoded.hidden[:, -1]), grown_keys, grown_values


@torch.no_grad()
def export(model: VisionLanguageModel, tokenizer: Tokenizer, out: Path) -> None:
    """Write `encoder.onnx`, `step.onnx`, their `.weights`, `tokenizer.json` and `config.json` into a new folder.

    `model` is plain torch on the CPU. Raises ExportError for models that read questions apart from their decoder or
    images of any size, and where the package onnx is missing.
    """
    if model.reader is not None:
        raise ExportError(
            "this model reads questions apart from its decoder, which is not exported"
        )
    if model.config.vision.preprocess.fit == "patches":
        raise ExportError(
            "this model gives each image a size of its own, and what is exported has one input size"
        )
    try:
        import onnx
    except ImportError:
        raise ExportError(f"the package onnx is missing; {how_to_install('onnx')}") from None
    out.mkdir(parents=True, exist_ok=True)
    pixels = torch.zeros(1, 3, *model.config.vision.preprocess.size)
    encoder, step = _Encoder(model).eval(), _Step(model).eval()
    keys, values, mask, *_ = encoder(pixels)
    config, tags = model.config.decoder, model.config.tags
    # Two rows and three tokens of a past, so that no size is taken for a constant.
    past = torch.zeros(
        config.sublayers.count("s"), 2, config.heads, 3, config.width // config.heads
    )
    token = torch.zeros(2, 1, dtype=torch.long), torch.full((1,), 3)
    with warnings.catch_warnings():
        # A trace warns that Python's values are constants to it, which is meant.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            (pixels,),
            str(out / "encoder.onnx"),
            input_names=["pixels"],
            output_names=["keys", "values", "mask", *([] if tags is None else ["sure"])],
            opset_version=OPSET,
            dynamo=False,
        )
        rows, length = {0: "rows"}, {1: "rows", 3: "length"}
        torch.onnx.export(
            step,
            (*token, keys, values, mask, past, past),
            str(out / "step.onnx"),
            input_names=["ids", "position", "keys", "values", "mask", "past_keys", "past_values"],
            output_names=["logits", "grown_keys", "grown_values"],
            dynamic_axes={
                "ids": rows,
                "logits": rows,
                **dict.fromkeys(("past_keys", "past_values", "grown_keys", "grown_values"), length),
            },
            opset_version=OPSET,
            dynamo=False,
        )
    for name in ("encoder", "step"):
        # Weights in a file of their own are mapped into memory, not read and copied: 35 MB less of it.
        graph = onnx.load(out / f"{name}.onnx")
        onnx.save_model(
            graph, out / f"{name}.onnx", save_as_external_data=True, location=f"{name}.weights"
        )
    tokenizer.save(out / "tokenizer.json")
    preprocess = model.config.vision.preprocess
    described = {
        "size": preprocess.size,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "fit": preprocess.fit,
        "interpolation": preprocess.interpolation,
        "caption": [tokenizer.caption, *tokenizer.encode(tokenizer.config.prompt)],
        "question": tokenizer.question,
        "answer": tokenizer.answer,
        "end": tokenizer.end,
        "nudge": 0.0 if tags is None else tags.nudge,
        "cache": [past.shape[0], config.heads, past.shape[4]],
        "licence": model.config.licence,
    }
    (out / "config.json").write_text(json.dumps(described, indent=2) + "\n")
