"""The names of BART's layers, which TrOCR's, mBART's and Florence-2's decoders share."""

from __future__ import annotations

from vlm.weights.tables import Table, module, stacked

OFFSET = 2  # rows of the position embeddings that are never read


def layers(ours: str, theirs: str, depth: int, cross: bool = True) -> Table:
    """Layers of self-attention, cross-attention (not an encoder's) and MLP, each with its norm."""
    blocks = ("self_attn", "encoder_attn") if cross else ("self_attn",)
    table: Table = {}
    for i in range(depth):
        layer, first = f"{theirs}.{i}", (len(blocks) + 1) * i
        for offset, block in enumerate(blocks):
            sublayer, attention = f"{ours}.sublayers.{first + offset}", f"{layer}.{block}"
            table |= module(f"{sublayer}.norm", f"{attention}_layer_norm")
            table |= module(f"{sublayer}.body.query", f"{attention}.q_proj")
            table |= module(
                f"{sublayer}.body.key_value",
                f"{attention}.k_proj",
                f"{attention}.v_proj",
                how=stacked,
            )
            table |= module(f"{sublayer}.body.out", f"{attention}.out_proj")
        sublayer = f"{ours}.sublayers.{first + len(blocks)}"
        table |= module(f"{sublayer}.norm", f"{layer}.final_layer_norm")
        table |= module(f"{sublayer}.body.up", f"{layer}.fc1")
        table |= module(f"{sublayer}.body.down", f"{layer}.fc2")
    return table
