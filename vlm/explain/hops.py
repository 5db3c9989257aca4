"""From a text's tokens to patches in one hop, or in two where a reader stands between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlm.explain.finished import Finished
from vlm.explain.method import NO_CHOICE, Choice, Head, Looks, chosen_heads, looks
from vlm.model.decoder import Decoded, Projected
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
    were read, by all of the reader's heads.
    """
    model, memory, projected = finished.model, finished.memory, finished.projected
    heads = chosen_heads(model.config.decoder, choice)
    of_question = None
    if finished.question is not None and model.reader is not None:
        asked = torch.tensor([finished.asked.ids], device=model.device)
        read = model.reader(asked, projected, explicit=True)
        every = chosen_heads(model.reader.config, NO_CHOICE)
        of_question = looks(memory, weigh(model.reader, projected, read, every))
        segment = Segment("question", 0, asked.shape[1])
        projected = model.decoder.project(Memory(read.hidden, (segment,)))
    decoded = model.decoder(finished.sequence, projected, explicit=True)
    weights = weigh(model.decoder, projected, decoded, heads)[finished.rows]
    seen = looks(memory, weights) if of_question is None else of_question.through(weights)
    return (seen, decoded), of_question
