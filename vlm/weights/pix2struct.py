"""Pix2Struct (Lee et al. 2023), DePlot and MatCha: google/pix2struct-*, google/deplot, google/matcha-* of transformers.

An encoder of patches with learned rows and columns, and T5's decoder. Their linear layers have no bias, which ours are
given as zeros, and their scores are not divided by the root of a head's width, so that queries are multiplied by it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm.model.config import AdapterConfig, DecoderConfig, ModelConfig, VisionConfig
from vlm.model.patch_transformer import PIX2STRUCT
from vlm.tokenizer import TextConfig
from vlm.typed import fit
from vlm.weights import CheckpointError
from vlm.weights.families import read_json
from vlm.weights.foreign import (
    Foreign,
    activation,
    expect,
    read_tokenizer,
    read_weights,
    settings,
    token,
)
from vlm.weights.processors import processor_values, read_preprocess
from vlm.weights.tables import From, Table, stacked, tied

# transformers writes what differs from its own defaults; these are the defaults.
_VISION: dict[str, Any] = {
    "hidden_size": 768,
    "patch_embed_hidden_size": 768,
    "d_ff": 2048,
    "d_kv": 64,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "dense_act_fn": "gelu_new",
    "layer_norm_eps": 1e-6,
    "seq_len": 4096,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 50244,
    "hidden_size": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_heads": 12,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dense_act_fn": "gelu_new",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
LONGEST = 4096  # tokens of a text: distances have no greatest, but memory has

DROPPED = {r"decoder\.lm_head\.weight": "it is the token embeddings, where it is not read"}


def read(folder: Path) -> Foreign:
    """A folder of Pix2StructForConditionalGeneration. Raises CheckpointError where something does not fit."""
    config = read_json(folder, "config.json")
    vision = settings(_VISION, config["vision_config"], "vision_config")
    text = settings(_TEXT, config["text_config"], "text_config")
    _check_heads(vision, "num_attention_heads", "vision_config")
    _check_heads(text, "num_heads", "text_config")
    weights = read_weights(folder)
    preprocess = read_preprocess(folder, None, "Pix2Struct")
    high, wide = preprocess.size
    expect(vision, "vision_config", patch_embed_hidden_size=3 * high * wide)
    if high != wide:
        raise CheckpointError(f"patches of {high} x {wide} have no equal here; only squares have")
    if preprocess.patches > vision["seq_len"]:
        raise CheckpointError(
            f"images of {preprocess.patches} patches have more rows or columns than the {vision['seq_len']} of "
            f"vision_config.seq_len"
        )
    painted = fit(
        bool, processor_values(folder).get("is_vqa", config.get("is_vqa")) or False, "is_vqa"
    )
    embedded = tied(weights, "decoder.lm_head.weight", "decoder.embed_tokens.weight")
    backend = read_tokenizer(folder)
    ours = ModelConfig(
        vision=VisionConfig(
            name=PIX2STRUCT,
            preprocess=preprocess,
            options={
                "width": vision["hidden_size"],
                "depth": vision["num_hidden_layers"],
                "heads": vision["num_attention_heads"],
                "mlp_ratio": vision["d_ff"] / vision["hidden_size"],
                "patch": high,
                "places": vision["seq_len"],
                "activation": activation(vision["dense_act_fn"]),
                "norm_eps": vision["layer_norm_eps"],
            },
        ),
        adapter=AdapterConfig("none"),
        decoder=DecoderConfig(
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            depth=text["num_layers"],
            heads=text["num_heads"],
            mlp_ratio=text["d_ff"] / text["hidden_size"],
            max_length=LONGEST,
            memory_width=vision["hidden_size"],
            activation=activation(text["dense_act_fn"]),
            norm="rms",
            norm_eps=text["layer_norm_epsilon"],
            gated=True,
            buckets=text["relative_attention_num_buckets"],
            reach=text["relative_attention_max_distance"],
            tied=embedded,
        ),
        text=TextConfig(
            pad=token(backend, text["pad_token_id"]),
            end=token(backend, text["eos_token_id"]),
            caption=token(backend, text["decoder_start_token_id"]),
            question="",
            answer="",
            verbatim=True,
            painted=painted,
        ),
        tasks=("vqa",) if painted else ("caption",),
        licence="Apache-2.0",
    )
    table = {**_vision_table(vision), **_text_table(text)}
    if not embedded:
        table["decoder.head.weight"] = From(("decoder.lm_head.weight",))
    return Foreign(ours, weights, table, DROPPED, backend)


def _check_heads(values: dict[str, Any], heads: str, where: str) -> None:
    if values[heads] * values["d_kv"] != values["hidden_size"]:
        raise CheckpointError(
            f"{where}: {values[heads]} heads of {values['d_kv']} channels are not the {values['hidden_size']} of "
            f"hidden_size, which has no equal here"
        )


def _vision_table(vision: dict[str, Any]) -> Table:
    trunk, embeddings = "vision.trunk", "encoder.embeddings"
    projection = f"{embeddings}.patch_projection"
    table: Table = {
        f"{trunk}.project.weight": From((f"{projection}.weight",), _as_convolution),
        f"{trunk}.project.bias": From((f"{projection}.bias",)),
        f"{trunk}.row_embedding.weight": From((f"{embeddings}.row_embedder.weight",), _from_one),
        f"{trunk}.column_embedding.weight": From(
            (f"{embeddings}.column_embedder.weight",), _from_one
        ),
        f"{trunk}.norm.weight": From(("encoder.layernorm.weight",)),
    }
    for i in range(vision["num_hidden_layers"]):
        layer = f"encoder.encoder.layer.{i}"
        attend, mlp = (f"{trunk}.sublayers.{2 * i + offset}" for offset in range(2))
        table |= _attention(attend, f"{layer}.attention", vision["d_kv"])
        table |= _mlp(mlp, f"{layer}.mlp")
        table[f"{attend}.norm.weight"] = From((f"{layer}.pre_attention_layer_norm.weight",))
        table[f"{mlp}.norm.weight"] = From((f"{layer}.pre_mlp_layer_norm.weight",))
    return table


def _text_table(text: dict[str, Any]) -> Table:
    distances = "decoder.layer.0.self_attention.attention.relative_attention_bias"
    table: Table = {
        "decoder.token_embedding.weight": From(("decoder.embed_tokens.weight",)),
        # The first layer's are those of all.
        "decoder.distance_embedding.weight": From((f"{distances}.weight",)),
        "decoder.final_norm.weight": From(("decoder.final_layer_norm.weight",)),
    }
    for i in range(text["num_layers"]):
        layer = f"decoder.layer.{i}"
        attend, cross, mlp = (f"decoder.sublayers.{3 * i + offset}" for offset in range(3))
        for ours, theirs in ((attend, "self_attention"), (cross, "encoder_decoder_attention")):
            table |= _attention(ours, f"{layer}.{theirs}.attention", text["d_kv"])
            table[f"{ours}.norm.weight"] = From((f"{layer}.{theirs}.layer_norm.weight",))
        table |= _mlp(mlp, f"{layer}.mlp.DenseReluDense")
        table[f"{mlp}.norm.weight"] = From((f"{layer}.mlp.layer_norm.weight",))
    return table


def _attention(ours: str, theirs: str, head: int) -> Table:
    return {
        **_plain(f"{ours}.body.query", f"{theirs}.query", how=partial(_scaled, head=head)),
        **_plain(f"{ours}.body.key_value", f"{theirs}.key", f"{theirs}.value", how=stacked),
        **_plain(f"{ours}.body.out", f"{theirs}.output"),
    }


def _mlp(ours: str, theirs: str) -> Table:
    names = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
    return {
        key: entry
        for own, their in names.items()
        for key, entry in _plain(f"{ours}.body.{own}", f"{theirs}.{their}").items()
    }


def _plain(ours: str, *theirs: str, how: Any = stacked) -> Table:
    """A layer of theirs that has no bias, with zeros for ours."""
    names = tuple(f"{name}.weight" for name in theirs)
    return {f"{ours}.weight": From(names, how), f"{ours}.bias": From(names, _zeros)}


def _zeros(*weights: Tensor) -> Tensor:
    return torch.zeros(sum(map(len, weights)))


def _scaled(weight: Tensor, head: int) -> Tensor:
    return weight * head**0.5


def _as_convolution(weight: Tensor) -> Tensor:
    """A layer over a patch's pixels, whose colours lie side by side, `(D, n * n * 3)`, as one over an image."""
    side = round((weight.shape[1] // 3) ** 0.5)
    return weight.unflatten(1, (side, side, 3)).movedim(3, 1)


def _from_one(places: Tensor) -> Tensor:
    """Places without the first, which is padding's; the last stands for one more, which a strip of patches may have."""
    return torch.cat([places[1:], places[-1:]])
