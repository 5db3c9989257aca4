"""From a text's tokens to patches in one hop, or in two where a reader stands between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.method import NO_CHOICE, Choice, Head, Looks, chosen_heads, looks
from vlm.model.decoder import Decoded, Projected
from vlm.model.joint_reader import JointReader
from vlm.model.memory import Memory, Segment
from vlm.runtimes import TextDecoder

Weigh = Callable[[TextDecoder, Projected, Decoded, Sequence[Head]], Tensor]
"""A decoder, what it attended to, a pass of one row with explicit probabilities, and heads to the shares of the slots,
`(T, S)`, that each of its tokens drew on, at most 1 together."""


@torch.inference_mode()
def by_hops(
    finished: Finished, choice: Choice, weigh: Weigh
) -> tuple[tuple[Looks, Decoded], Looks | None]:
    """What `vlm.explain.method.Method` gives, of what one attention weighs; and the decoder's pass over the text.

    The text is run once more, teacher-forced, with explicit probabilities (as OpenAI's whisper aligns words). With a
    reader there are two hops: a token of the answer draws on those of the question, and these on the patches as they
    were read, by all of the reader's heads. Of a joint reader's the second hop is its layers' attention rolled out.
    """
    model, memory, projected = finished.model, finished.memory, finished.projected
    heads = chosen_heads(model.config.decoder, choice)
    of_question = of_slots = None
    if isinstance(model.reader, JointReader):
        read, of_slots = _read_jointly(finished, model.reader)
        of_question = of_slots.rows(slice(memory.tokens.shape[1], None))
        projected = model.decoder.project(read)
    elif finished.question is not None and model.reader is not None:
        asked = torch.tensor([finished.asked.ids], device=model.device)
        states = model.reader(asked, projected, explicit=True)
        every = chosen_heads(model.reader.config, NO_CHOICE)
        of_slots = of_question = looks(memory, weigh(model.reader, projected, states, every))
        segment = Segment("question", 0, asked.shape[1])
        projected = model.decoder.project(Memory(states.hidden, (segment,)))
    decoded = model.decoder(finished.sequence, projected, explicit=True)
    weights = weigh(model.decoder, projected, decoded, heads)[finished.rows]
    seen = looks(memory, weights) if of_slots is None else of_slots.through(weights)
    return (seen, decoded), of_question


def _read_jointly(finished: Finished, reader: JointReader) -> tuple[Memory, Looks]:
    """What a joint reader makes of the image and the question, and what each of these slots drew on."""
    ids = torch.tensor([finished.asked.ids], device=finished.model.device)
    read = reader(ids, finished.projected, explicit=True)
    rolled = rolled_out([layer[0].mean(dim=0) for layer in read.attention])
    return read.memory, looks(with_question(finished.memory, ids.shape[1]), rolled)


def with_question(memory: Memory, length: int) -> Memory:
    """A memory's segments, and behind them that of a question's tokens, which a joint reader read with it."""
    slots = memory.tokens.shape[1]
    return Memory(memory.tokens, (*memory.segments, Segment("question", slots, slots + length)))


def rolled_out(layers: Sequence[Tensor]) -> Tensor:
    """What tokens drew on behind all layers of attention `(N, N)`, each half of it and half the token itself, `(N, N)`.

    "Quantifying attention flow in transformers", Abnar and Zuidema, ACL 2020.
    """
    itself = torch.eye(len(layers[0]), device=layers[0].device)
    drawn = itself
    for attention in layers:
        drawn = (attention + itself) / 2 @ drawn
    return drawn
