"""Attention weighed by gradients and rolled back through the layers, to the image's patches.

"Generic attention-model explainability for interpreting bi-modal and encoder-decoder transformers", Chefer et al., ICCV
2021. A head counts where more of its attention would have made the word likelier; self-attention carries what earlier
layers found from token to token, and a ViT's from patch to patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vlm.explain.contrast import decisions_of
from vlm.explain.finished import Finished
from vlm.explain.hops import with_question
from vlm.explain.method import Choice, Looks, MethodError, looks
from vlm.model.decoder import Decoder, Projected
from vlm.model.joint_reader import JointReader
from vlm.model.memory import Memory, Segment
from vlm.model.model import VisionLanguageModel
from vlm.runtimes.layers import Float16Linear, PackedLinear


@dataclass(frozen=True, eq=False)
class Pass:
    """A decoder's pass: hidden states `(1, T, D)`, and the attention of its layers, `(1, H, T, T)` or `(1, H, T, S)`.

    `kinds` has a letter for each of them: "s" for self-attention and "c" for cross-attention.
    """

    hidden: Tensor
    kinds: str
    attention: list[Tensor]


def relevance(finished: Finished, choice: Choice) -> tuple[Looks, Looks | None]:
    """Relevance of patches to each token's logit, or to its log-odds against a foil; see `vlm.explain.method.Method`.

    A token of the question was not predicted: its relevance is to the sum of the text's logits, as the answer used it.
    An encoder that does not attend to all of its tokens in each layer, such as a CNN, is not rolled back: the patches
    are what leaves it. Raises MethodError where the runtime has no gradients.
    """
    model = _with_gradients(finished)
    prompt = len(finished.prompt.ids)
    with torch.inference_mode(False), torch.enable_grad():
        memory, encoder = _encoded(finished, model)
        projected = model.project(memory)
        passes, seen_by = [], memory
        if model.reader is not None:
            ids = torch.tensor([finished.asked.ids], device=model.device)
            if isinstance(model.reader, JointReader):
                seen_by = with_question(memory, ids.shape[1])
            read, one = _watched_reader(model.reader, ids, projected)
            passes.append(one)
            projected = model.decoder.project(read)
        passes.append(_watched(model.decoder, finished.sequence.clone(), projected))
        kept = [*encoder, *(weights for one in passes for weights in one.attention)]

        def look(target: Tensor) -> list[Looks]:
            """Where the tokens of each pass looked for the sake of a target."""
            weighed = iter(_weighed(target, kept))
            patches = _encoder_relevance([next(weighed) for _ in encoder])
            onto, seen = None, []
            for one in passes:
                own = relevance_of_slots(one.kinds, [next(weighed) for _ in one.attention])
                onto = own if onto is None else own @ onto
                seen.append(_looks(seen_by, onto, patches))
            return seen

        logits = model.decoder.logits(passes[-1].hidden[0, prompt - 1 :])  # (T + 1, V)
        targets = _targets(finished, logits, choice.foil)
        *of_question, of_prompt = look(sum((t for _, t in targets), logits.new_zeros(())))
        parts = [of_prompt.rows(finished.rows[:prompt])]
        parts += [look(target)[-1].rows([prompt - 1 + place]) for place, target in targets]
    asked = slice(-len(finished.asked.ids), None) if of_question else slice(None)
    return Looks.joined(parts), of_question[0].rows(asked) if of_question else None


def relevance_of_slots(kinds: str, weighed: Sequence[Tensor]) -> Tensor:
    """How relevant slots are to each token behind all layers, `(T, S)`, of each layer's weights `(T, T)` or `(T, S)`.

    The paper's equations 6 to 10, where a row is the token that looks.
    """
    if "c" not in kinds:  # a joint reader's: the slots are among the tokens
        return _normalised(_rolled(weighed))
    (cross, *_) = (weights for kind, weights in zip(kinds, weighed) if kind == "c")
    itself, onto = torch.eye(len(cross), device=cross.device), torch.zeros_like(cross)
    for kind, weights in zip(kinds, weighed):
        if kind == "s":
            itself, onto = itself + weights @ itself, onto + weights @ onto
        else:
            onto = onto + _normalised(itself) @ weights
    return onto


def _encoder_relevance(weighed: Sequence[Tensor]) -> Tensor | None:
    """How relevant an encoder's tokens are to what leaves it, `(N, N)`, normalised."""
    if not weighed:
        return None
    return _normalised(_rolled(weighed))


def _rolled(weighed: Sequence[Tensor]) -> Tensor:
    """How relevant tokens are to each other behind all layers of self-attention, `(N, N)`."""
    itself = torch.eye(len(weighed[0]), device=weighed[0].device)
    for weights in weighed:
        itself = itself + weights @ itself
    return itself


def _normalised(itself: Tensor) -> Tensor:
    """What layers mixed in counts as much as the token itself: beside the identity a row sums to 1 (equation 8)."""
    identity = torch.eye(len(itself), device=itself.device)
    mixed = itself - identity
    return mixed / mixed.sum(dim=-1, keepdim=True).clamp(min=1e-12) + identity


def _weighed(target: Tensor, kept: Sequence[Tensor]) -> list[Tensor]:
    """Each layer's attention times its gradient, where that is positive, mean over heads, `(T, S)` (equation 5)."""
    if not target.requires_grad:  # nothing of a text hangs on it
        return [torch.zeros_like(weights[0, 0]) for weights in kept]
    gradients = torch.autograd.grad(
        target, kept, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return [
        (weights * gradient).detach().clamp(min=0).mean(dim=1)[0]
        for weights, gradient in zip(kept, gradients)
    ]


def _targets(finished: Finished, logits: Tensor, foil: str | None) -> list[tuple[int, Tensor]]:
    """For each token of the text what it is explained by, and the position where that was decided."""
    if foil is None:
        return [(i, logits[i, token]) for i, token in enumerate(finished.ids)]
    return [
        (i, logits.new_zeros(()))
        if decision is None
        else (decision.position, decision.odds(logits[None])[0])
        for i, decision in enumerate(decisions_of(finished, foil))
    ]


def _looks(memory: Memory, onto: Tensor, encoder: Tensor | None) -> Looks:
    """Relevance of slots `(T, S)` as shares of patches, which an encoder's tokens `(N, N)` drew on, and of the rest."""
    seen = looks(memory, onto)
    if encoder is not None:
        patches = seen.patches.flatten(1)
        prefix = len(encoder) - patches.shape[1]
        own = F.pad(patches, (prefix, 0))
        if "class" in seen.others:
            segment = next(s for s in memory.segments if s.name == "class")
            own[:, :prefix] = onto[:, segment.start : segment.stop]
        drawn = own @ encoder
        others = {**seen.others, "class": drawn[:, :prefix].sum(dim=1)} if prefix else seen.others
        seen = Looks(drawn[:, prefix:].view_as(seen.patches), others)
    total = seen.patches.sum(dim=(1, 2)) + sum(seen.others.values())
    return seen.scaled(1 / total.clamp(min=1e-12))


def _encoded(finished: Finished, model: VisionLanguageModel) -> tuple[Memory, list[Tensor]]:
    """The memory in a graph of its own, and a ViT's attention `(1, H, N, N)` in each layer that led to it, if any."""
    memory = finished.memory
    # What was made without a graph has to be copied into one.
    mask, lift = (None if x is None else x.clone() for x in (memory.mask, memory.lift))
    tokens = memory.tokens.clone().requires_grad_()
    fused = any(hasattr(module, "fused_attn") for module in model.vision.modules())  # timm's name
    if fused:
        if finished.pixels is None:
            raise MethodError(
                "relevance goes back through the encoder, which needs the whole photo"
            )
        with Watched() as watched:
            patches, grid = model.vision(finished.pixels().to(model.device)[None].requires_grad_())
        if _of_all_to_all(watched.probabilities):
            remembered = model.remember(patches, grid)
            return replace(remembered, mask=mask, lift=lift), watched.probabilities
    return replace(memory, tokens=tokens, mask=mask, lift=lift), []


def _of_all_to_all(attention: Sequence[Tensor]) -> bool:
    """Whether in each layer all of one image's tokens attended to all of them."""
    shapes = {(len(weights), *weights.shape[2:]) for weights in attention}
    return len(shapes) == 1 and all(n == 1 and rows == columns for n, rows, columns in shapes)


def _watched(decoder: Decoder, ids: Tensor, projected: Projected) -> Pass:
    with Watched() as watched:
        decoded = decoder(ids, projected)
    return Pass(decoded.hidden, decoder.config.sublayers.replace("m", ""), watched.probabilities)


def _watched_reader(
    reader: Decoder | JointReader, ids: Tensor, projected: Projected
) -> tuple[Memory, Pass]:
    """A reader's pass, and the memory that it makes for the decoder."""
    if isinstance(reader, Decoder):
        one = _watched(reader, ids, projected)
        return Memory(one.hidden, (Segment("question", 0, ids.shape[1]),)), one
    with Watched() as watched:
        read = reader(ids, projected)
    kinds = "s" * len(watched.probabilities)
    return read.memory, Pass(read.memory.tokens, kinds, watched.probabilities)


class Watched(TorchFunctionMode):
    """While it is open, fused attention is computed step by step, and `probabilities` `(B, H, T, S)` has what it used.

    It holds for the thread that opened it, so requests do not mix, and nothing in a module is changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.probabilities: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self.attend(*args, **(kwargs or {}))

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        """As torch's function in evaluation."""
        scores = queries @ keys.transpose(-1, -2) * (scale or queries.shape[-1] ** -0.5)
        if is_causal:
            attn_mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        self.probabilities.append(scores.softmax(dim=-1))
        return self.probabilities[-1] @ values


def _with_gradients(finished: Finished) -> VisionLanguageModel:
    model = finished.model
    if (
        isinstance(model, VisionLanguageModel)
        and isinstance(model.decoder, Decoder)
        and not any(isinstance(module, PackedLinear | Float16Linear) for module in model.modules())
    ):
        return model
    raise MethodError(
        "relevance needs gradients, which this runtime has not: load the model with gradients=True"
    )
