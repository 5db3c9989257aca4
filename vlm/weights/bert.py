"""The names of BERT's layers, which BLIP's and RoBERTa's decoders share."""

from __future__ import annotations

from vlm.weights.tables import From, Table, Weights, module, stacked


def embeddings(ours: str, theirs: str) -> Table:
    """Token and position embeddings and their norm."""
    return {
        f"{ours}.token_embedding.weight": From((f"{theirs}.word_embeddings.weight",)),
        f"{ours}.position_embedding.weight": From((f"{theirs}.position_embeddings.weight",)),
        **module(f"{ours}.embedding_norm", f"{theirs}.LayerNorm"),
    }


def head_bias(source: Weights, head: str) -> str:
    """The name of the output's bias: a file may have the head's, its output layer's, which is what counts, or both."""
    output = f"{head}.decoder.bias"
    return output if output in source else f"{head}.bias"


def layers(ours: str, theirs: str, depth: int, cross: bool = True) -> Table:
    """Layers of self-attention, cross-attention and MLP, each followed by its norm.

    An encoder's file has no cross-attention; without `cross` nothing of ours is made for it.
    """
    blocks = ("attention", "crossattention") if cross else ("attention",)
    table: Table = {}
    for i in range(depth):
        layer = f"{theirs}.{i}"
        for offset, block in enumerate(blocks):
            sublayer, attention = f"{ours}.sublayers.{3 * i + offset}", f"{layer}.{block}"
            table |= module(f"{sublayer}.norm", f"{attention}.output.LayerNorm")
            table |= module(f"{sublayer}.body.query", f"{attention}.self.query")
            table |= module(
                f"{sublayer}.body.key_value",
                f"{attention}.self.key",
                f"{attention}.self.value",
                how=stacked,
            )
            table |= module(f"{sublayer}.body.out", f"{attention}.output.dense")
        sublayer = f"{ours}.sublayers.{3 * i + 2}"
        table |= module(f"{sublayer}.norm", f"{layer}.output.LayerNorm")
        table |= module(f"{sublayer}.body.up", f"{layer}.intermediate.dense")
        table |= module(f"{sublayer}.body.down", f"{layer}.output.dense")
    return table
