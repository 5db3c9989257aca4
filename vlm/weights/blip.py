"""BLIP (Li et al. 2022) as transformers stores it: Salesforce/blip-image-captioning-base and -large, blip-vqa-base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm.model.config import AdapterConfig, DecoderConfig, ModelConfig, VisionConfig
from vlm.tokenizer import TextConfig
from vlm.weights import bert
from vlm.weights.families import read_json
from vlm.weights.foreign import (
    Foreign,
    activation,
    read_tokenizer,
    read_weights,
    settings,
    token,
)
from vlm.weights.processors import read_preprocess, sides
from vlm.weights.tables import From, Table, module, tied

# transformers writes what differs from its own defaults; these are the defaults.
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 384,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "bos_token_id": 30522,
    "pad_token_id": 0,
    "sep_token_id": 102,
}

DROPPED = {
    r"text_(de|en)coder\..*position_ids": "it counts up, and is made anew",
    r"text_decoder\.cls\.predictions\.decoder\.weight": "it is the token embeddings, where it is not another table",
    r"text_decoder\.cls\.predictions\.bias": "the output layer has it, too",
}


def read(folder: Path) -> Foreign:
    """A folder of BlipForConditionalGeneration, or of BlipForQuestionAnswering, which has a question encoder too.

    Raises CheckpointError where something does not fit.
    """
    config = read_json(folder, "config.json")
    vision = settings(_VISION, config["vision_config"], "vision_config")
    text = settings(_TEXT, config["text_config"], "text_config")
    weights = read_weights(folder)
    head = "text_decoder.cls.predictions"
    embeddings = "text_decoder.bert.embeddings"
    embedded = tied(weights, f"{head}.decoder.weight", f"{embeddings}.word_embeddings.weight")
    answers = any(name.startswith("text_encoder.") for name in weights)

    backend = read_tokenizer(folder)
    end = token(backend, text["sep_token_id"])
    layers = _layers(text, memory_width=vision["hidden_size"])
    ours = ModelConfig(
        vision=_vision(vision, folder),
        adapter=AdapterConfig("none"),
        reader=replace(layers, causal=False) if answers else None,
        decoder=replace(layers, tied=embedded, head_transform=True, head_bias=True),
        text=TextConfig(
            pad=token(backend, text["pad_token_id"]),
            end=end,
            caption=token(backend, text["bos_token_id"], new="[DEC]"),
            # transformers begins a question with [CLS]; Salesforce's own code put [ENC] there.
            question="[CLS]" if answers else "",
            answer=end if answers else "",
        ),
        tasks=("vqa",) if answers else ("caption",),
        licence="BSD-3-Clause",
    )
    table = {
        **_vision_table(vision["num_hidden_layers"]),
        **bert.embeddings("decoder", embeddings),
        **bert.layers("decoder", "text_decoder.bert.encoder.layer", text["num_hidden_layers"]),
        **module("decoder.head_transform.0", f"{head}.transform.dense"),
        **module("decoder.head_transform.2", f"{head}.transform.LayerNorm"),
        "decoder.head_bias": From((bert.head_bias(weights, head),)),
    }
    if answers:
        table |= bert.embeddings("reader", "text_encoder.embeddings")
        table |= bert.layers("reader", "text_encoder.encoder.layer", text["num_hidden_layers"])
    if not embedded:
        table["decoder.head.weight"] = From((f"{head}.decoder.weight",))
    return Foreign(ours, weights, table, DROPPED, backend)


def _vision(config: dict[str, Any], folder: Path) -> VisionConfig:
    return VisionConfig(
        name="vit_base_patch16_384",
        preprocess=read_preprocess(
            folder, sides(config["image_size"], "vision_config.image_size"), "Blip"
        ),
        options={
            "patch_size": config["patch_size"],
            "embed_dim": config["hidden_size"],
            "depth": config["num_hidden_layers"],
            "num_heads": config["num_attention_heads"],
            "mlp_ratio": config["intermediate_size"] / config["hidden_size"],
            "act_layer": activation(config["hidden_act"]),
        },
        norm_eps=config["layer_norm_eps"],
        prefix=True,
    )


def _layers(config: dict[str, Any], memory_width: int) -> DecoderConfig:
    """What the question encoder and the text decoder have in common."""
    return DecoderConfig(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        max_length=config["max_position_embeddings"],
        memory_width=memory_width,
        activation=activation(config["hidden_act"]),
        prenorm=False,
        norm_eps=config["layer_norm_eps"],
        embedding_norm=True,
    )


def _vision_table(depth: int) -> Table:
    table: Table = {
        "vision.trunk.cls_token": From(("vision_model.embeddings.class_embedding",)),
        "vision.trunk.pos_embed": From(("vision_model.embeddings.position_embedding",)),
        **module("vision.trunk.patch_embed.proj", "vision_model.embeddings.patch_embedding"),
        **module("vision.trunk.norm", "vision_model.post_layernorm"),
    }
    for i in range(depth):
        ours, theirs = f"vision.trunk.blocks.{i}", f"vision_model.encoder.layers.{i}"
        table |= module(f"{ours}.norm1", f"{theirs}.layer_norm1")
        table |= module(f"{ours}.attn.qkv", f"{theirs}.self_attn.qkv")
        table |= module(f"{ours}.attn.proj", f"{theirs}.self_attn.projection")
        table |= module(f"{ours}.norm2", f"{theirs}.layer_norm2")
        table |= module(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1")
        table |= module(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")
    return table
