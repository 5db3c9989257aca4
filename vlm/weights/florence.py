"""Florence-2 (Xiao et al. 2023): florence-community/Florence-2-* of transformers, microsoft/Florence-2-*.

A DaViT, places and a mean, and a BART whose encoder reads the image and the prompt as one. Microsoft's own code, which
came first, has other names for the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from torch import Tensor

from vlm.model.config import AdapterConfig, DecoderConfig, ModelConfig, VisionConfig
from vlm.tokenizer import TextConfig
from vlm.weights import CheckpointError, bart
from vlm.weights.families import FLORENCE_TASKS, read_json
from vlm.weights.foreign import (
    Foreign,
    activation,
    expect,
    read_tokenizer,
    read_weights,
    settings,
    token,
)
from vlm.weights.processors import read_preprocess
from vlm.weights.tables import From, Table, module, rows, same, tied, transposed

# transformers writes what differs from its own defaults; these are the defaults.
_VISION: dict[str, Any] = {
    "depths": [1, 1, 9, 1],
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "embed_dim": [128, 256, 512, 1024],
    "num_heads": [4, 8, 16, 32],
    "num_groups": [4, 8, 16, 32],
    "window_size": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "activation_function": "gelu",
    "max_position_embeddings": 50,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 50265,
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "scale_embedding": False,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
STRIDE = 32  # pixels of the encoder's input a patch

# What the processor makes of its task tokens.
INSTRUCTIONS = {
    "caption": "What does the image describe?",
    "detailed caption": "Describe in detail what is shown in the image.",
    "more detailed caption": "Describe with a paragraph what is shown in the image.",
    "ocr": "What is the text in the image?",
    "ocr with regions": "What is the text in the image, with regions?",
    "detect": "Locate the objects with category name in the image.",
    "describe regions": "Locate the objects in the image, with their descriptions.",
    "propose regions": "Locate the region proposals in the image.",
    "ground": "Locate the phrases in the caption: {}",
    "find": "Locate {} in the image.",
}

# Microsoft's processor adds these behind BART's vocabulary as it is loaded; no file has them.
_NAMES = ("cap", "ncap", "dcap", "grounding", "seg")
_BEHIND = ("region_cap", "region_to_desciption", "proposal", "poly")
ADDED = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{i}>" for i in range(1000)),
    *(mark for name in _NAMES for mark in (f"<{name}>", f"</{name}>")),
    "<sep>",
    *(mark for name in _BEHIND for mark in (f"<{name}>", f"</{name}>")),
    "<and>",
)

DROPPED = {
    r"language_model\.(model\.)?(en|de)coder\.embed_tokens\.weight": "it is the shared table",
    r"(language_model\.)?lm_head\.weight": "it is the shared table, where it is not another",
    r"language_model\.final_logits_bias": "it is zero, where it is not read",
}


def read(folder: Path) -> Foreign:
    """A folder of Florence2ForConditionalGeneration, in either layout. Raises CheckpointError where it does not fit."""
    config = read_json(folder, "config.json")
    vision = settings(_VISION, _vision_names(config["vision_config"]), "vision_config")
    for name in ("patch_size", "patch_stride", "patch_padding", "patch_prenorm"):
        expect(vision, "vision_config", **{name: _VISION[name]})
    expect(vision, "vision_config", activation_function="gelu", num_groups=vision["num_heads"])
    text = settings(_TEXT, config["text_config"], "text_config")
    # With a tied output all of transformers' names begin with this, and then it is off already.
    weights = {name.removeprefix("model."): w for name, w in read_weights(folder).items()}
    remote = any(name.startswith("language_model.model.") for name in weights)
    language = "language_model.model" if remote else "language_model"
    head = "language_model.lm_head.weight" if remote else "lm_head.weight"
    preprocess = read_preprocess(folder, None, "CLIP")
    grid = tuple(-(-side // STRIDE) for side in preprocess.size)
    if max(grid) > vision["max_position_embeddings"]:
        raise CheckpointError(
            f"images of {preprocess.size[0]} x {preprocess.size[1]} have more rows or columns than the "
            f"{vision['max_position_embeddings']} of vision_config.max_position_embeddings"
        )
    slots = 1 + grid[0] * grid[1]
    shared = f"{language}.shared.weight"
    for part in ("encoder", "decoder"):
        if not tied(weights, f"{language}.{part}.embed_tokens.weight", shared):
            raise CheckpointError(f"the {part}'s embeddings are not the shared ones")
    embedded = tied(weights, head, shared)
    biased = bool(weights.get("language_model.final_logits_bias", torch.zeros(1)).any())

    backend = _tokenizer(folder)
    start, end = token(backend, text["bos_token_id"]), token(backend, text["eos_token_id"])
    ours = ModelConfig(
        vision=VisionConfig(
            name="davit_base_fl",
            preprocess=preprocess,
            options={
                "depths": vision["depths"],
                "embed_dims": vision["embed_dim"],
                "num_heads": vision["num_heads"],
                "window_size": vision["window_size"],
                "mlp_ratio": vision["mlp_ratio"],
                "qkv_bias": vision["qkv_bias"],
            },
            last_norm=False,
        ),
        adapter=AdapterConfig("places", places=vision["max_position_embeddings"]),
        reader=_layers(text, "encoder", pattern="sm", causal=False, slots=slots),
        decoder=_layers(text, "decoder", tied=embedded, head_bias=biased),
        text=TextConfig(
            pad=token(backend, text["pad_token_id"]),
            end=end,
            caption=token(backend, text["decoder_start_token_id"]),
            question=start,
            answer=end,
            begin=start,
            verbatim=True,
            instructions=INSTRUCTIONS,
        ),
        tasks=FLORENCE_TASKS,
        licence="MIT",
    )
    table = {
        **_vision_table(vision["depths"], remote),
        **_adapter_table(remote),
        **_text_table(language, text, slots),
    }
    if not embedded:
        table["decoder.head.weight"] = From((head,))
    if biased:
        table["decoder.head_bias"] = From(("language_model.final_logits_bias",), torch.flatten)
    return Foreign(ours, weights, table, DROPPED, backend)


def _vision_names(config: dict[str, Any]) -> dict[str, Any]:
    """The vision configuration under transformers' names, of which Microsoft has others; a file may have both."""
    sources = ["spatial_avg_pool", "temporal_avg_pool"]
    expect(config, "vision_config", image_feature_source=sources)
    names = {"embed_dim": config.get("dim_embed")}
    if places := config.get("image_pos_embed"):
        expect(places, "vision_config.image_pos_embed", type="learned_abs_2d")
        names["max_position_embeddings"] = places["max_pos_embeddings"]
    return {**{name: value for name, value in names.items() if value is not None}, **config}


def _tokenizer(folder: Path) -> Backend:
    backend = read_tokenizer(folder)
    if backend.token_to_id("<loc_0>") is None:
        backend.add_special_tokens([AddedToken(m, special=True, normalized=False) for m in ADDED])
    return backend


def _layers(text: dict[str, Any], part: str, **other: Any) -> DecoderConfig:
    """What BART's encoder and decoder have in common."""
    slots = other.get("slots", 0)
    return DecoderConfig(
        vocab_size=text["vocab_size"],
        width=text["d_model"],
        depth=text[f"{part}_layers"],
        heads=text[f"{part}_attention_heads"],
        mlp_ratio=text[f"{part}_ffn_dim"] / text["d_model"],
        max_length=text["max_position_embeddings"] - slots,
        memory_width=text["d_model"],
        activation=activation(text["activation_function"]),
        prenorm=False,
        embedding_norm=True,
        embedding_scale=text["d_model"] ** 0.5 if text["scale_embedding"] else 1.0,
        **other,
    )


def _vision_table(depths: list[int], remote: bool) -> Table:
    trunk, convolution = "vision.trunk", "proj" if remote else "conv"
    table: Table = {}
    for stage, depth in enumerate(depths):
        ours = f"{trunk}.stem" if stage == 0 else f"{trunk}.stages.{stage}.downsample"
        table |= module(f"{ours}.conv", f"vision_tower.convs.{stage}.{convolution}")
        table |= module(f"{ours}.norm", f"vision_tower.convs.{stage}.norm")
        for i in range(depth):
            for kind, attention in (("spatial", "window_attn"), ("channel", "channel_attn")):
                block = f"{trunk}.stages.{stage}.blocks.{i}.{kind}_block"
                names = _remote_block(attention) if remote else _native_block(attention)
                for own, their in names.items():
                    table |= module(
                        f"{block}.{own}", f"vision_tower.blocks.{stage}.{i}.{kind}_block.{their}"
                    )
    return table


def _native_block(attention: str) -> dict[str, str]:
    return {
        "cpe1.proj": "conv1",
        "norm1": "norm1",
        "attn.qkv": f"{attention}.qkv",
        "attn.proj": f"{attention}.proj",
        "cpe2.proj": "conv2",
        "norm2": "norm2",
        "mlp.fc1": "ffn.fc1",
        "mlp.fc2": "ffn.fc2",
    }


def _remote_block(attention: str) -> dict[str, str]:
    return {
        "cpe1.proj": "conv1.fn.dw",
        "norm1": f"{attention}.norm",
        "attn.qkv": f"{attention}.fn.qkv",
        "attn.proj": f"{attention}.fn.proj",
        "cpe2.proj": "conv2.fn.dw",
        "norm2": "ffn.norm",
        "mlp.fc1": "ffn.fn.net.fc1",
        "mlp.fc2": "ffn.fn.net.fc2",
    }


def _adapter_table(remote: bool) -> Table:
    theirs = "" if remote else "multi_modal_projector."
    places = f"{theirs}{'image_pos_embed' if remote else 'image_position_embed'}"
    time = f"{theirs}visual_temporal_embed.pos_idx_to_embed"
    return {
        # One image is the first of a video, whose place in time is the same for all of its patches.
        "adapter.row_embedding.weight": From((f"{places}.row_embeddings.weight", time), _with_end),
        "adapter.column_embedding.weight": From(
            (f"{places}.column_embeddings.weight", time), _with_start
        ),
        "adapter.project.weight": From(
            (f"{theirs}image_projection{'' if remote else '.weight'}",),
            transposed if remote else same,
        ),
        **module("adapter.norm", f"{theirs}image_proj_norm"),
    }


def _with_start(columns: Tensor, times: Tensor) -> Tensor:
    return columns + times[0, : columns.shape[1]]


def _with_end(of_rows: Tensor, times: Tensor) -> Tensor:
    return of_rows + times[0, -of_rows.shape[1] :]


def _text_table(language: str, text: dict[str, Any], slots: int) -> Table:
    table: Table = {}
    for ours, part, cross in (("reader", "encoder", False), ("decoder", "decoder", True)):
        theirs, first = f"{language}.{part}", bart.OFFSET + (0 if cross else slots)
        # A table for each: a file of ours has no two names for one tensor.
        table[f"{ours}.token_embedding.weight"] = From((f"{language}.shared.weight",), torch.clone)
        table[f"{ours}.position_embedding.weight"] = From(
            (f"{theirs}.embed_positions.weight",), rows(first)
        )
        table |= module(f"{ours}.embedding_norm", f"{theirs}.layernorm_embedding")
        table |= bart.layers(ours, f"{theirs}.layers", text[f"{part}_layers"], cross)
    table["reader.slot_embedding.weight"] = From(
        (f"{language}.encoder.embed_positions.weight",), rows(bart.OFFSET, bart.OFFSET + slots)
    )
    return table
