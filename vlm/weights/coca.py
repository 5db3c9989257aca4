"""CoCa (Yu et al. 2022) as open_clip stores it: laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k and -L-14.

open_clip's text tower and its multimodal layers are one decoder here: layers that read the text alone come first.
These two are published as weights alone: open_clip itself has their configurations and the tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from tokenizers import decoders
from torch import Tensor

from vlm.images import Preprocess
from vlm.model.config import AdapterConfig, DecoderConfig, ModelConfig, VisionConfig
from vlm.tokenizer import TextConfig
from vlm.typed import Finite, Positive
from vlm.weights import CheckpointError
from vlm.weights.families import CONFIGURATION, read_json
from vlm.weights.foreign import (
    Foreign,
    expect,
    read_tokenizer,
    read_weights,
    settings,
    token,
)
from vlm.weights.hub import fetch_file
from vlm.weights.processors import channels, sides
from vlm.weights.tables import From, Table, Weights, module, row, rows, stacked, transposed

# open_clip's defaults, where the configuration says nothing.
_VISION = {
    "image_size": 224,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "attentional_pool": False,
    "attn_pooler_queries": 256,
    "attn_pooler_heads": 8,
    "pool_type": "tok",
}
_TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
    "embed_cls": False,
}
_PREPROCESS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
# open_clip's configurations of its two published sizes, by the width of the text.
_PUBLISHED = {
    512: {
        "embed_dim": 512,
        "vision_cfg": {"layers": 12, "width": 768, "patch_size": 32, "attentional_pool": True},
        "text_cfg": {"context_length": 76, "width": 512, "heads": 8, "embed_cls": True},
        "multimodal_cfg": {"context_length": 76, "width": 512, "heads": 8},
    },
    768: {
        "embed_dim": 768,
        "vision_cfg": {"layers": 24, "width": 1024, "patch_size": 14, "attentional_pool": True},
        "text_cfg": {"context_length": 76, "width": 768, "heads": 12, "embed_cls": True},
        "multimodal_cfg": {"context_length": 76, "width": 768, "heads": 12},
    },
}
_TOKENIZER = "openai/clip-vit-large-patch14"  # the same in all of CLIP's models
_FIT: dict[str, Any] = {"shortest": "crop", "squash": "squash"}

DROPPED = {
    r"logit_scale": "it serves retrieval",
    r"visual\.proj": "it serves retrieval",
    r"text\.(cls_emb|ln_final\..*|text_projection)": "they serve retrieval",
    r"(text|text_decoder)\.attn_mask": "the causal mask is made anew",
}


def read(folder: Path) -> Foreign:
    """A folder of open_clip's CoCa. Without a tokenizer of its own it takes CLIP's, from the hub.

    Raises CheckpointError where something does not fit.
    """
    weights = read_weights(folder, "open_clip_model", "open_clip_pytorch_model")
    config = _configuration(folder, weights)
    model = config["model_cfg"]
    vision = settings(_VISION, model["vision_cfg"], "vision_cfg")
    text = settings(_TEXT, model["text_cfg"], "text_cfg")
    fused = settings(_TEXT, model["multimodal_cfg"], "multimodal_cfg")
    expect(vision, "vision_cfg", attentional_pool=True, timm_model_name=None, ls_init_value=None)
    expect(vision, "vision_cfg", no_ln_pre=False, pos_embed_type="learnable", block_type=None)
    expect(vision, "vision_cfg", pool_type="tok")
    expect(text, "text_cfg", embed_cls=True, hf_model_name=None, ls_init_value=None)
    for name in ("width", "heads", "mlp_ratio"):
        expect(fused, "multimodal_cfg", **{name: text[name]})
    activation: Any = "quick_gelu" if model.get("quick_gelu") else "gelu"
    own = (folder / "tokenizer.json").is_file()
    backend = read_tokenizer(folder if own else fetch_file(_TOKENIZER, "tokenizer.json").parent)
    # CLIP's own decoder leaves the marks of a word's end.
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    end = token(backend, text["vocab_size"] - 1)
    ours = ModelConfig(
        vision=VisionConfig(
            name="vit_base_patch32_clip_224",
            preprocess=_preprocess(
                config.get("preprocess_cfg", {}),
                sides(vision["image_size"], "vision_cfg.image_size"),
            ),
            options={
                "patch_size": vision["patch_size"],
                "embed_dim": vision["width"],
                "depth": vision["layers"],
                "num_heads": vision["width"] // vision["head_width"],
                "mlp_ratio": vision["mlp_ratio"],
                "act_layer": activation,
            },
            norm_eps=1e-5,
            prefix=True,
        ),
        # The first query's result serves retrieval.
        adapter=AdapterConfig(
            "pool", vision["attn_pooler_queries"] - 1, vision["attn_pooler_heads"]
        ),
        decoder=DecoderConfig(
            vocab_size=text["vocab_size"],
            width=text["width"],
            depth=fused["layers"],
            heads=text["heads"],
            pattern="smcm",
            mlp_ratio=text["mlp_ratio"],
            max_length=fused["context_length"],
            memory_width=model["embed_dim"],
            activation=activation,
            text_layers=text["layers"],
            memory_norm=True,
            tied=False,
        ),
        text=TextConfig(
            pad=end,
            end=end,
            caption=token(backend, text["vocab_size"] - 2),
            question="",
            answer="",
        ),
        tasks=("caption",),
        licence="MIT",
    )
    if fused["context_length"] > text["context_length"]:
        raise CheckpointError("multimodal_cfg.context_length is more than text_cfg.context_length")
    table = {
        **_vision_table(vision["layers"], model["embed_dim"]),
        **_decoder_table(text["layers"], fused["layers"], text["width"], fused["context_length"]),
    }
    return Foreign(ours, weights, table, DROPPED, backend)


def _configuration(folder: Path, weights: Weights) -> dict[str, Any]:
    if (folder / CONFIGURATION).is_file():
        return read_json(folder, CONFIGURATION)
    embeddings = weights.get("text.token_embedding.weight")
    if embeddings is None or "text_decoder.text_projection" not in weights:
        raise CheckpointError(f"{folder} has no {CONFIGURATION}, and its weights are not CoCa's")
    if embeddings.shape[1] not in _PUBLISHED:
        raise CheckpointError(
            f"{folder} has no {CONFIGURATION}, and is neither coca_ViT-B-32 nor -L-14"
        )
    return {"model_cfg": _PUBLISHED[embeddings.shape[1]]}


def _preprocess(values: dict[str, Any], size: tuple[int, int]) -> Preprocess:
    values = settings(_PREPROCESS, values, "preprocess_cfg")
    if values["resize_mode"] not in _FIT:
        raise CheckpointError(f"preprocess_cfg.resize_mode {values['resize_mode']!r} is unknown")
    if "size" in values and sides(values["size"], "preprocess_cfg.size") != size:
        raise CheckpointError(f"preprocess_cfg.size {values['size']} is not the encoder's {size}")
    return Preprocess(
        size=size,
        mean=channels(Finite, values["mean"], "preprocess_cfg.mean"),
        std=channels(Positive, values["std"], "preprocess_cfg.std"),
        fit=_FIT[values["resize_mode"]],
        interpolation=values["interpolation"],
    )


def _vision_table(depth: int, width: int) -> Table:
    trunk, pool = "vision.trunk", "visual.attn_pool"
    table: Table = {
        f"{trunk}.cls_token": From(("visual.class_embedding",), row),
        f"{trunk}.pos_embed": From(("visual.positional_embedding",), _batched),
        f"{trunk}.patch_embed.proj.weight": From(("visual.conv1.weight",)),
        **module(f"{trunk}.norm_pre", "visual.ln_pre"),
        # The pooler's norm of its keys is what timm has behind the last block.
        **module(f"{trunk}.norm", f"{pool}.ln_k"),
        "adapter.queries": From(
            (f"{pool}.query", f"{pool}.ln_q.weight", f"{pool}.ln_q.bias"), _normed_queries
        ),
        "adapter.attention.query.weight": From((f"{pool}.attn.q_proj_weight",)),
        "adapter.attention.key_value.weight": From(
            (f"{pool}.attn.k_proj_weight", f"{pool}.attn.v_proj_weight"), stacked
        ),
        "adapter.attention.query.bias": From((f"{pool}.attn.in_proj_bias",), rows(0, width)),
        "adapter.attention.key_value.bias": From((f"{pool}.attn.in_proj_bias",), rows(width)),
        **module("adapter.attention.out", f"{pool}.attn.out_proj"),
        **module("adapter.norm", "visual.ln_post"),
    }
    for i in range(depth):
        ours, theirs = f"{trunk}.blocks.{i}", f"visual.transformer.resblocks.{i}"
        table |= {
            **module(f"{ours}.norm1", f"{theirs}.ln_1"),
            f"{ours}.attn.qkv.weight": From((f"{theirs}.attn.in_proj_weight",)),
            f"{ours}.attn.qkv.bias": From((f"{theirs}.attn.in_proj_bias",)),
            **module(f"{ours}.attn.proj", f"{theirs}.attn.out_proj"),
            **module(f"{ours}.norm2", f"{theirs}.ln_2"),
            **module(f"{ours}.mlp.fc1", f"{theirs}.mlp.c_fc"),
            **module(f"{ours}.mlp.fc2", f"{theirs}.mlp.c_proj"),
        }
    return table


def _decoder_table(text_layers: int, layers: int, width: int, length: int) -> Table:
    table: Table = {
        "decoder.token_embedding.weight": From(("text.token_embedding.weight",)),
        # The last position is the retrieval token's.
        "decoder.position_embedding.weight": From(("text.positional_embedding",), rows(0, length)),
        **module("decoder.final_norm", "text_decoder.ln_final"),
        "decoder.head.weight": From(("text_decoder.text_projection",), transposed),
    }
    blocks = [f"text.transformer.resblocks.{i}" for i in range(text_layers)]
    for i in range(layers):
        blocks += [f"text_decoder.resblocks.{i}", f"text_decoder.cross_attn.{i}"]
    # Every block is an attention and an MLP.
    for i, theirs in enumerate(blocks):
        attend, mlp = f"decoder.sublayers.{2 * i}", f"decoder.sublayers.{2 * i + 1}"
        table |= module(f"{attend}.norm", f"{theirs}.ln_1")
        for name, part in (("query", rows(0, width)), ("key_value", rows(width))):
            for kind in ("weight", "bias"):
                table[f"{attend}.body.{name}.{kind}"] = From(
                    (f"{theirs}.attn.in_proj_{kind}",), part
                )
        table |= module(f"{attend}.body.out", f"{theirs}.attn.out_proj")
        if ".cross_attn." in theirs:
            table |= module(f"{attend}.memory_norm", f"{theirs}.ln_1_kv")
        table |= module(f"{mlp}.norm", f"{theirs}.ln_2")
        table |= module(f"{mlp}.body.up", f"{theirs}.mlp.c_fc")
        table |= module(f"{mlp}.body.down", f"{theirs}.mlp.c_proj")
    return table


def _batched(positions: Tensor) -> Tensor:
    return positions[None]


def _normed_queries(queries: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The queries behind their norm, which are the same for every image, without the first."""
    return F.layer_norm(queries, queries.shape[-1:], weight, bias)[1:]
