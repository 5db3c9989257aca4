"""Vision encoders of transformers under timm's names: ViT, DeiT, BEiT, Swin and Donut's Swin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm.model.config import VisionConfig
from vlm.weights import CheckpointError
from vlm.weights.families import ENCODERS
from vlm.weights.foreign import activation, expect, settings
from vlm.weights.processors import read_preprocess, sides
from vlm.weights.tables import From, Table, module, stacked

# transformers writes what differs from its own defaults; these are the defaults.
_PLAIN: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
}
_BEIT: dict[str, Any] = _PLAIN | {
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "layer_scale_init_value": 0.1,
    "use_mean_pooling": True,
}
_SWIN: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 4,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
}

_PROCESSORS = {
    "vit": "ViT",
    "deit": "DeiT",
    "beit": "Beit",
    "swin": "ViT",
    "donut-swin": "Donut",
}


def read(config: dict[str, Any], folder: Path) -> tuple[VisionConfig, Table, int]:
    """An encoder's configuration as ours, the table of its weights, and its width.

    Raises CheckpointError for an encoder that has no equal in timm.
    """
    family = config.get("model_type", "")
    if family in ("vit", "deit"):
        config = settings(_PLAIN, config, "encoder")
        vision, table = _vit(config, distilled=family == "deit")
        width = config["hidden_size"]
    elif family == "beit":
        config = settings(_BEIT, config, "encoder")
        vision, table = _beit(config)
        width = config["hidden_size"]
    elif family in ("swin", "donut-swin"):
        config = settings(_SWIN, config, "encoder")
        vision, table = _swin(config, last_norm=family == "swin")
        width = config["embed_dim"] * 2 ** (len(config["depths"]) - 1)
    else:
        raise CheckpointError(
            f"the encoder's model_type {family!r} is none of {', '.join(ENCODERS)}"
        )
    size = sides(config["image_size"], "encoder.image_size")
    preprocess = read_preprocess(folder, size, _PROCESSORS[family])
    return VisionConfig(preprocess=preprocess, **vision), table, width


def _vit(config: dict[str, Any], distilled: bool) -> tuple[dict[str, Any], Table]:
    vision = {
        "name": "deit_base_distilled_patch16_224" if distilled else "vit_base_patch16_224",
        "options": {
            **_plain_options(config),
            "qkv_bias": config["qkv_bias"],
            "act_layer": activation(config["hidden_act"]),
        },
        "norm_eps": config["layer_norm_eps"],
        "prefix": True,
    }
    trunk = "vision.trunk"
    table: Table = {
        f"{trunk}.cls_token": From(("encoder.embeddings.cls_token",)),
        f"{trunk}.pos_embed": From(("encoder.embeddings.position_embeddings",)),
        **module(f"{trunk}.patch_embed.proj", "encoder.embeddings.patch_embeddings.projection"),
        **module(f"{trunk}.norm", "encoder.layernorm"),
    }
    if distilled:
        table[f"{trunk}.dist_token"] = From(("encoder.embeddings.distillation_token",))
    for i in range(config["num_hidden_layers"]):
        ours, theirs = f"{trunk}.blocks.{i}", f"encoder.encoder.layer.{i}"
        table |= _block(ours, theirs)
        attention = f"{theirs}.attention.attention"
        table |= _fused(f"{ours}.attn.qkv", attention, bias=config["qkv_bias"])
    return vision, table


def _beit(config: dict[str, Any]) -> tuple[dict[str, Any], Table]:
    expect(config, "encoder", hidden_act="gelu")
    pooled = config["use_mean_pooling"]
    scaled = config["layer_scale_init_value"] > 0
    vision = {
        "name": "beit_base_patch16_224",
        "options": {
            **_plain_options(config),
            "use_abs_pos_emb": config["use_absolute_position_embeddings"],
            "use_rel_pos_bias": config["use_relative_position_bias"],
            "use_shared_rel_pos_bias": config["use_shared_relative_position_bias"],
            "init_values": config["layer_scale_init_value"],
            "global_pool": "avg" if pooled else "token",
        },
        "norm_eps": config["layer_norm_eps"],
        "prefix": True,
    }
    trunk, bias = "vision.trunk", "relative_position_bias.relative_position_bias_table"
    table: Table = {
        f"{trunk}.cls_token": From(("encoder.embeddings.cls_token",)),
        **module(f"{trunk}.patch_embed.proj", "encoder.embeddings.patch_embeddings.projection"),
        # With mean pooling, the norm belongs to the pooled vector, and the patches have none.
        **module(
            f"{trunk}.{'fc_norm' if pooled else 'norm'}",
            "encoder.pooler.layernorm" if pooled else "encoder.layernorm",
        ),
    }
    if config["use_absolute_position_embeddings"]:
        table[f"{trunk}.pos_embed"] = From(("encoder.embeddings.position_embeddings",))
    if config["use_shared_relative_position_bias"]:
        table[f"{trunk}.rel_pos_bias.relative_position_bias_table"] = From(
            (f"encoder.encoder.{bias}",)
        )
    for i in range(config["num_hidden_layers"]):
        ours, theirs = f"{trunk}.blocks.{i}", f"encoder.encoder.layer.{i}"
        table |= _block(ours, theirs)
        attention = f"{theirs}.attention.attention"
        table |= _fused(f"{ours}.attn.qkv", attention, bias=False)
        table[f"{ours}.attn.q_bias"] = From((f"{attention}.query.bias",))
        table[f"{ours}.attn.v_bias"] = From((f"{attention}.value.bias",))
        if config["use_relative_position_bias"]:
            table[f"{ours}.attn.relative_position_bias_table"] = From((f"{attention}.{bias}",))
        if scaled:
            table[f"{ours}.gamma_1"] = From((f"{theirs}.lambda_1",))
            table[f"{ours}.gamma_2"] = From((f"{theirs}.lambda_2",))
    return vision, table


def _swin(config: dict[str, Any], last_norm: bool) -> tuple[dict[str, Any], Table]:
    expect(config, "encoder", hidden_act="gelu", layer_norm_eps=1e-5, use_absolute_embeddings=False)
    names = ("patch_size", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio")
    vision = {
        "name": "swin_tiny_patch4_window7_224",
        "options": {name: config[name] for name in (*names, "qkv_bias")},
        "norm_eps": 1e-5,
        "last_norm": last_norm,
    }
    trunk = "vision.trunk"
    table: Table = {
        **module(f"{trunk}.patch_embed.proj", "encoder.embeddings.patch_embeddings.projection"),
        **module(f"{trunk}.patch_embed.norm", "encoder.embeddings.norm"),
    }
    if last_norm:
        table |= module(f"{trunk}.norm", "encoder.layernorm")
    for stage, depth in enumerate(config["depths"]):
        if stage > 0:
            # transformers merges patches at the end of a stage, timm at the beginning of the next.
            ours = f"{trunk}.layers.{stage}.downsample"
            theirs = f"encoder.encoder.layers.{stage - 1}.downsample"
            table |= module(f"{ours}.norm", f"{theirs}.norm")
            table[f"{ours}.reduction.weight"] = From((f"{theirs}.reduction.weight",))
        for i in range(depth):
            ours = f"{trunk}.layers.{stage}.blocks.{i}"
            theirs = f"encoder.encoder.layers.{stage}.blocks.{i}"
            attention = f"{theirs}.attention.self"
            table |= _block(ours, theirs)
            table |= _fused(f"{ours}.attn.qkv", attention, bias=config["qkv_bias"])
            table[f"{ours}.attn.relative_position_bias_table"] = From(
                (f"{attention}.relative_position_bias_table",)
            )
    return vision, table


def _plain_options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "patch_size": config["patch_size"],
        "embed_dim": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": config["intermediate_size"] / config["hidden_size"],
    }


def _block(ours: str, theirs: str) -> Table:
    """A block but for its query, key and value."""
    return {
        **module(f"{ours}.norm1", f"{theirs}.layernorm_before"),
        **module(f"{ours}.attn.proj", f"{theirs}.attention.output.dense"),
        **module(f"{ours}.norm2", f"{theirs}.layernorm_after"),
        **module(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
        **module(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
    }


def _fused(ours: str, theirs: str, bias: bool) -> Table:
    """Query, key and value as one layer."""
    table = module(ours, f"{theirs}.query", f"{theirs}.key", f"{theirs}.value", how=stacked)
    return table if bias else {f"{ours}.weight": table[f"{ours}.weight"]}
