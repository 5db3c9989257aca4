"""What fused attention hides: the shares of asked keys, computed anew from the queries and keys that it was given.

A `TorchFunctionMode`, which holds in its own thread alone, sees the call, and one model's modules say which of them
makes it. No processor is replaced, no function patched, and the fused call itself goes on as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

BUDGET = 16_000_000  # numbers, 64 MB in float32: what the logits of a part of the queries may take

See = Callable[[int, Tensor, Tensor, Tensor | None, float | None], None]
"""Of a layer: its queries `(B, H, Q, D)`, keys `(B, H, K, D)`, mask and scale."""


class FusedCalls(TorchFunctionMode):
    """While it is entered, `see` gets what each of the `layers` calls fused attention with, in this thread."""

    def __init__(self, layers: Mapping[int, nn.Module], see: See) -> None:
        super().__init__()
        self.layers, self.see = layers, see
        self.layer: int | None = None
        self.thread = threading.get_ident()
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> FusedCalls:
        for index, module in self.layers.items():
            self.handles.append(module.register_forward_pre_hook(self._entered(index)))
            self.handles.append(module.register_forward_hook(self._left, always_call=True))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.layer is not None:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            given = {**dict(zip(names, args)), **kwargs}
            mask, scale = given.get("attn_mask"), given.get("scale")
            self.see(self.layer, given["query"], given["key"], mask, scale)
        return func(*args, **kwargs)

    def _entered(self, index: int) -> Callable[..., None]:
        def entered(*_: Any) -> None:
            # Another pipeline may hold the same module, and run it in a thread of its own.
            if threading.get_ident() == self.thread:
                self.layer = index

        return entered

    def _left(self, *_: Any) -> None:
        if threading.get_ident() == self.thread:
            self.layer = None


def shares_of_keys(
    query: Tensor, key: Tensor, places: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """How much each query `(H, Q, D)` draws on the keys at some `places` `(N,)` among all `(H, K, D)`: `(H, Q, N)`.

    `mask` is what was given to the fused call, `(H or 1, Q or 1, K)`. Queries are taken in parts of `BUDGET` numbers.
    """
    heads, count, width = query.shape
    factor = width**-0.5 if scale is None else scale
    parts = []
    step = max(1, BUDGET // (heads * key.shape[1]))
    for start in range(0, count, step):
        logits = factor * (query[:, start : start + step] @ key.transpose(1, 2)).float()
        if mask is not None:
            own = mask if mask.shape[1] == 1 else mask[:, start : start + step]
            added = own.float() if own.is_floating_point() else own.logical_not() * -1e9
            logits = logits + added
        total = logits.logsumexp(dim=-1, keepdim=True)
        parts.append((logits[..., places] - total).exp())
    return torch.cat(parts, dim=1)
