"""What every method explains: a text that is finished, with the image and the prompt that it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vlm.model.decoder import Projected
from vlm.model.memory import Memory
from vlm.prompts import Prompt, caption_prompt, instruction, question_prompt
from vlm.runtimes import Runtime
from vlm.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Finished:
    """A caption (`question` None) or an answer about one image, its `memory` of batch 1 and what projects it.

    `ids` are the text's tokens without prompt and end; `pixels` makes what the encoder saw, `(3, H, W)`, where that is
    still to be had. Of its height the share `header` is a question that is painted above the photo.
    """

    model: Runtime
    tokenizer: Tokenizer
    memory: Memory
    projected: Projected
    ids: tuple[int, ...]
    question: str | None = None
    pixels: Callable[[], Tensor] | None = None
    header: float = 0.0

    @cached_property
    def asked(self) -> Prompt:
        """What asked the question, or told a reader to caption."""
        question = self.question
        if question is None:
            question = instruction(self.tokenizer, "caption")
        return question_prompt(self.tokenizer, question)

    @cached_property
    def prompt(self) -> Prompt:
        """What the decoder continued: with a reader, which takes the question, as a caption begins."""
        if self.question is None or self.model.reader is not None:
            return caption_prompt(self.tokenizer)
        return self.asked

    @cached_property
    def sequence(self) -> Tensor:
        """The decoder's prompt and the text, `(1, T)`."""
        return torch.tensor([[*self.prompt.ids, *self.ids]], device=self.model.device)

    @cached_property
    def rows(self) -> list[int]:
        """The row of a pass over `sequence` that shows where each of its tokens looked; see `Prompt.rows`."""
        return self.prompt.rows(len(self.ids))
