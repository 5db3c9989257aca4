"""How far a text is to be trusted, as a checkpoint was fitted to tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

# Types alone: what renders answers must not wait for torch.
if TYPE_CHECKING:
    from vlm.encoded_image import EncodedImage

Verdict = Literal["sure", "unsure", "guess"]


@dataclass(frozen=True)
class Judgement:
    """Why a text is trusted or not, as a checkpoint was fitted to tell.

    `likely` in 0..1 is how likely the text is: of an answer its confidence, of a caption the geometric mean of its
    tokens' probabilities. From `sure` on it is sure, below `guess` a guess, and so is every text about what is no
    `photo`.
    """

    likely: float
    sure: float
    guess: float
    photo: bool

    @property
    def verdict(self) -> Verdict:
        """In one word."""
        if not self.photo or self.likely < self.guess:
            return "guess"
        return "sure" if self.likely >= self.sure else "unsure"


def judge(
    image: EncodedImage, answering: bool, confidence: float, logprobs: Sequence[float]
) -> Judgement | None:
    """How far to trust a text, and why; None where the checkpoint has no fit for it. See `VerdictConfig`."""
    model = image.captioner.model
    fitted, likeness = model.config.verdict, model.likeness
    if fitted is None or likeness is None:
        return None
    photo = image.blank or likeness(image.memory).item() >= fitted.photo
    sure, guess = fitted.sure_documents, fitted.guess_documents
    if answering and image.passages and sure is not None and guess is not None:
        return Judgement(confidence, sure, guess, photo)
    if answering:
        return Judgement(confidence, fitted.sure_answer, fitted.guess_answer, photo)
    likely = math.exp(sum(logprobs) / len(logprobs))
    return Judgement(likely, fitted.sure_caption, fitted.guess_caption, photo)
