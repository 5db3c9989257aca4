"""transformers' VisionEncoderDecoderModel: nlpconnect/vit-gpt2-image-captioning, microsoft/trocr-*, Donut, Nougat.

The encoder is a ViT, DeiT, BEiT or Swin (see `encoders`), the decoder GPT-2, BERT, RoBERTa, TrOCR's or mBART's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from vlm.fields import is_mark
from vlm.model.config import AdapterConfig, DecoderConfig, ModelConfig
from vlm.tokenizer import TextConfig
from vlm.weights import CheckpointError, bart, bert, encoders, sentence_pieces
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
from vlm.weights.tables import From, Table, Weights, module, rows, tied, transposed

# transformers writes what differs from its own defaults; these are the defaults.
_GPT2 = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}
_BERT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_ROBERTA = _BERT | {"vocab_size": 50265, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_TROCR = {
    "vocab_size": 50265,
    "d_model": 1024,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "max_position_embeddings": 512,
    "scale_embedding": False,
    "use_learned_position_embeddings": True,
    "layernorm_embedding": True,
    "decoder_start_token_id": 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

_MBART = {
    "vocab_size": 50265,
    "d_model": 1024,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "max_position_embeddings": 1024,
    "scale_embedding": False,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

_Reader = Callable[[dict[str, Any], Weights, int], tuple[DecoderConfig, Table]]

DROPPED = {
    r"encoder\.pooler\..*": "it serves classification",
    r"encoder\.embeddings\.mask_token": "it serves pretraining",
    r".*\.position_ids": "it counts up, and is made anew",
    r".*\.relative_position_index": "timm makes it anew",
    r"decoder\.transformer\.h\.\d+\.(attn|crossattention)\.(masked_)?bias": "masks are made anew",
    r"decoder\.lm_head\.weight": "it is the token embeddings, where it is not another table",
    r"decoder\.(lm_head|cls\.predictions)\.decoder\.weight": "it is the embeddings, or read beside them",
    r"decoder\.(lm_head|cls\.predictions)\.bias": "the output layer has it, too",
    r"decoder\.output_projection\.weight": "it is the token embeddings, where it is not another table",
    r"decoder\.model\.decoder\.embed_positions\._float_tensor": "it only holds a type",
}


def read(folder: Path) -> Foreign:
    """A folder of VisionEncoderDecoderModel. Raises CheckpointError where something does not fit."""
    config = read_json(folder, "config.json")
    weights = read_weights(folder)
    vision, table, vision_width = encoders.read(config["encoder"], folder)
    family = config["decoder"].get("model_type", "")
    if family not in _DECODERS:
        known = ", ".join(_DECODERS)
        raise CheckpointError(f"the decoder's model_type {family!r} is none of {known}")
    defaults, read_decoder, output = _DECODERS[family]
    values = settings(defaults, config["decoder"], "decoder")
    projected = "enc_to_dec_proj.weight" in weights
    width = values.get("n_embd") or values.get("d_model") or values["hidden_size"]
    memory_width = width if projected else vision_width
    decoder, decoder_table = read_decoder(values, weights, memory_width)
    if not decoder.tied:
        decoder_table["decoder.head.weight"] = From((output,))
    if projected:
        decoder_table |= module("adapter.project", "enc_to_dec_proj")
    backend = _tokenizer(folder)
    text = None
    if vision.preprocess.fit == "page":  # what is printed there, letter for letter
        text = replace(_text(folder, config, values, backend), verbatim=True)
    elif family == "mbart":
        text = _document_text(folder, config, values, backend)
    ours = ModelConfig(
        vision=vision,
        adapter=AdapterConfig("linear" if projected else "none"),
        decoder=decoder,
        text=text or _text(folder, config, values, backend),
        tasks=("vqa",) if text is not None and text.question else ("caption",),
    )
    return Foreign(ours, weights, table | decoder_table, DROPPED, backend)


def _tokenizer(folder: Path) -> Backend:
    """`tokenizer.json`, or what older repositories have: SentencePiece's file, or a byte-level BPE's two."""
    files = [folder / "vocab.json", folder / "merges.txt"]
    pieces = folder / sentence_pieces.FILE
    if not (folder / "tokenizer.json").is_file() and pieces.is_file():
        return sentence_pieces.read_pieces(pieces)
    if (folder / "tokenizer.json").is_file() or not all(file.is_file() for file in files):
        return read_tokenizer(folder)
    try:
        backend = Backend(models.BPE.from_file(*map(str, files)))
    except Exception as error:  # the backend raises bare Exception
        raise CheckpointError(f"{files[0]} and {files[1]} cannot be read: {error}") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ("<s>", "</s>", "<pad>", "<unk>", "<mask>", "<|endoftext|>")
    known = [name for name in specials if backend.token_to_id(name) is not None]
    backend.add_special_tokens([AddedToken(name, special=True) for name in known])
    return backend


def _text(
    folder: Path, config: dict[str, Any], decoder: dict[str, Any], backend: Backend
) -> TextConfig:
    """Start, end and padding as `generate` finds them: of the generation's, the whole's, the decoder's settings."""
    file = "generation_config.json"
    places = [read_json(folder, file) if (folder / file).is_file() else {}, config, decoder]

    def number(*names: str) -> int:
        for name in names:
            for place in places:
                if isinstance(place.get(name), int):
                    return place[name]
        raise CheckpointError(f"config.json gives no {names[0]}")

    end = number("eos_token_id")
    return TextConfig(
        pad=token(backend, number("pad_token_id", "eos_token_id")),
        end=token(backend, end),
        caption=token(backend, number("decoder_start_token_id", "bos_token_id")),
        question="",
        answer="",
    )


_TASK = re.compile(r"<s_(.+)>")
_PRETRAINING = ("synthdog", "iitcdip")  # tasks whose marks all of Donut's tokenizers still have


def _document_text(
    folder: Path, config: dict[str, Any], decoder: dict[str, Any], backend: Backend
) -> TextConfig | None:
    """How Donut is asked; None where the vocabulary has no mark of a task.

    A task is a mark that opens and has no partner that closes, the last that fine-tuning added; no file names it. With
    marks of a question and its answer the task is to answer.
    """
    added = sorted(backend.get_added_tokens_decoder().items())
    marks = [mark.content for _, mark in added]
    opened = [match[1] for mark in marks if (match := _TASK.fullmatch(mark))]
    alone = [name for name in opened if f"</s_{name}>" not in marks]
    tasks = [f"<s_{name}>" for name in alone if name not in (*_PRETRAINING, "answer")]
    if not tasks:
        return None
    hidden = [mark for mark in marks if is_mark(mark)]
    backend.add_special_tokens([AddedToken(m, special=True, normalized=False) for m in hidden])
    text = replace(_text(folder, config, decoder, backend), caption=tasks[-1])
    if not {"<s_question>", "</s_question>", "<s_answer>"} <= set(marks):
        return replace(text, verbatim=True, fields=True)
    return replace(
        text,
        task=tasks[-1],
        question="<s_question>",
        question_end="</s_question>",
        answer="<s_answer>",
        verbatim=True,
    )


def _gpt2(
    config: dict[str, Any], weights: Weights, memory_width: int
) -> tuple[DecoderConfig, Table]:
    expect(
        config,
        "decoder",
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=True,
    )
    inner = config["n_inner"] or 4 * config["n_embd"]
    transformer = "decoder.transformer"
    decoder = DecoderConfig(
        vocab_size=config["vocab_size"],
        width=config["n_embd"],
        depth=config["n_layer"],
        heads=config["n_head"],
        mlp_ratio=inner / config["n_embd"],
        max_length=config["n_positions"],
        memory_width=memory_width,
        activation=activation(config["activation_function"]),
        norm_eps=config["layer_norm_epsilon"],
        tied=tied(weights, "decoder.lm_head.weight", f"{transformer}.wte.weight"),
    )
    table: Table = {
        "decoder.token_embedding.weight": From((f"{transformer}.wte.weight",)),
        "decoder.position_embedding.weight": From((f"{transformer}.wpe.weight",)),
        **module("decoder.final_norm", f"{transformer}.ln_f"),
    }
    width = config["n_embd"]
    for i in range(config["n_layer"]):
        layer = f"{transformer}.h.{i}"
        attend, cross, mlp = (f"decoder.sublayers.{3 * i + offset}" for offset in range(3))
        table |= module(f"{attend}.norm", f"{layer}.ln_1")
        # One matrix for query, key and value.
        whole = f"{layer}.attn.c_attn"
        for name, part in (("query", rows(0, width)), ("key_value", rows(width))):
            table[f"{attend}.body.{name}.weight"] = From(
                (f"{whole}.weight",), partial(_part_of_transposed, part)
            )
            table[f"{attend}.body.{name}.bias"] = From((f"{whole}.bias",), part)
        table |= module(f"{attend}.body.out", f"{layer}.attn.c_proj", how=transposed)
        table |= module(f"{cross}.norm", f"{layer}.ln_cross_attn")
        attention = f"{layer}.crossattention"
        table |= module(f"{cross}.body.query", f"{attention}.q_attn", how=transposed)
        table |= module(f"{cross}.body.key_value", f"{attention}.c_attn", how=transposed)
        table |= module(f"{cross}.body.out", f"{attention}.c_proj", how=transposed)
        table |= module(f"{mlp}.norm", f"{layer}.ln_2")
        table |= module(f"{mlp}.body.up", f"{layer}.mlp.c_fc", how=transposed)
        table |= module(f"{mlp}.body.down", f"{layer}.mlp.c_proj", how=transposed)
    return decoder, table


def _bert(
    config: dict[str, Any], weights: Weights, memory_width: int
) -> tuple[DecoderConfig, Table]:
    head = "decoder.cls.predictions"
    names = (f"{head}.transform.dense", f"{head}.transform.LayerNorm", head, f"{head}.decoder")
    return _bert_like(config, weights, memory_width, "decoder.bert", names, first=0)


def _roberta(
    config: dict[str, Any], weights: Weights, memory_width: int
) -> tuple[DecoderConfig, Table]:
    head = "decoder.lm_head"
    names = (f"{head}.dense", f"{head}.layer_norm", head, f"{head}.decoder")
    # Its positions begin behind the padding's number.
    first = config["pad_token_id"] + 1
    return _bert_like(config, weights, memory_width, "decoder.roberta", names, first)


def _bert_like(
    config: dict[str, Any],
    weights: Weights,
    memory_width: int,
    body: str,
    head: tuple[str, str, str, str],
    first: int,
) -> tuple[DecoderConfig, Table]:
    expect(config, "decoder", position_embedding_type="absolute", add_cross_attention=True)
    dense, norm, biased, output = head
    embeddings = f"{body}.embeddings"
    decoder = DecoderConfig(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        max_length=config["max_position_embeddings"] - first,
        memory_width=memory_width,
        activation=activation(config["hidden_act"]),
        prenorm=False,
        norm_eps=config["layer_norm_eps"],
        embedding_norm=True,
        tied=tied(weights, f"{output}.weight", f"{embeddings}.word_embeddings.weight"),
        head_transform=True,
        head_bias=True,
    )
    table = {
        **bert.embeddings("decoder", embeddings),
        # All text is of the first type, so its embedding joins that of the position.
        "decoder.position_embedding.weight": From(
            (
                f"{embeddings}.position_embeddings.weight",
                f"{embeddings}.token_type_embeddings.weight",
            ),
            partial(_positions_of_first_type, first=first),
        ),
        **bert.layers("decoder", f"{body}.encoder.layer", config["num_hidden_layers"]),
        **module("decoder.head_transform.0", dense),
        **module("decoder.head_transform.2", norm),
        "decoder.head_bias": From((bert.head_bias(weights, biased),)),
    }
    return decoder, table


def _trocr(
    config: dict[str, Any], weights: Weights, memory_width: int
) -> tuple[DecoderConfig, Table]:
    body, width = "decoder.model.decoder", config["d_model"]
    normed = config["layernorm_embedding"]
    decoder = DecoderConfig(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["decoder_layers"],
        heads=config["decoder_attention_heads"],
        mlp_ratio=config["decoder_ffn_dim"] / width,
        max_length=config["max_position_embeddings"],
        memory_width=memory_width,
        activation=activation(config["activation_function"]),
        prenorm=False,
        embedding_norm=normed,
        embedding_scale=width**0.5 if config["scale_embedding"] else 1.0,
        tied=tied(weights, "decoder.output_projection.weight", f"{body}.embed_tokens.weight"),
    )
    table: Table = {
        "decoder.token_embedding.weight": From((f"{body}.embed_tokens.weight",)),
        "decoder.position_embedding.weight": From(
            (f"{body}.embed_positions.weight",), rows(bart.OFFSET)
        ),
    }
    if not config["use_learned_position_embeddings"]:
        table["decoder.position_embedding.weight"] = From(
            (),
            partial(
                _sinusoids,
                first=config["pad_token_id"] + 1,
                count=config["max_position_embeddings"],
                width=width,
            ),
        )
    if normed:
        table |= module("decoder.embedding_norm", f"{body}.layernorm_embedding")
    table |= bart.layers("decoder", f"{body}.layers", config["decoder_layers"])
    return decoder, table


def _mbart(
    config: dict[str, Any], weights: Weights, memory_width: int
) -> tuple[DecoderConfig, Table]:
    body, width = "decoder.model.decoder", config["d_model"]
    decoder = DecoderConfig(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["decoder_layers"],
        heads=config["decoder_attention_heads"],
        mlp_ratio=config["decoder_ffn_dim"] / width,
        max_length=config["max_position_embeddings"],
        memory_width=memory_width,
        activation=activation(config["activation_function"]),
        embedding_norm=True,
        embedding_scale=width**0.5 if config["scale_embedding"] else 1.0,
        tied=tied(weights, "decoder.lm_head.weight", f"{body}.embed_tokens.weight"),
    )
    table: Table = {
        "decoder.token_embedding.weight": From((f"{body}.embed_tokens.weight",)),
        "decoder.position_embedding.weight": From(
            (f"{body}.embed_positions.weight",), rows(bart.OFFSET)
        ),
        **module("decoder.embedding_norm", f"{body}.layernorm_embedding"),
        **module("decoder.final_norm", f"{body}.layer_norm"),
        **bart.layers("decoder", f"{body}.layers", config["decoder_layers"]),
    }
    return decoder, table


# Defaults, reader, and the name of the output weights where they are not the embeddings.
_DECODERS: dict[str, tuple[dict[str, Any], _Reader, str]] = {
    "gpt2": (_GPT2, _gpt2, "decoder.lm_head.weight"),
    "bert": (_BERT, _bert, "decoder.cls.predictions.decoder.weight"),
    "roberta": (_ROBERTA, _roberta, "decoder.lm_head.decoder.weight"),
    "trocr": (_TROCR, _trocr, "decoder.output_projection.weight"),
    "mbart": (_MBART, _mbart, "decoder.lm_head.weight"),
}


def _part_of_transposed(part: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    return part(transposed(tensor))


def _positions_of_first_type(positions: Tensor, types: Tensor, first: int) -> Tensor:
    return positions[first:] + types[0]


def _sinusoids(first: int, count: int, width: int) -> Tensor:
    """tensor2tensor's positions `[first, first + count)`: all sines, then all cosines."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * -(math.log(10_000) / (half - 1)))
    angles = torch.arange(first, first + count)[:, None] * frequencies
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))
