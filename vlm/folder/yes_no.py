"""One question with the answer yes or no to many images: a single token is scored, and nothing is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlm.captioner import Captioner
from vlm.images import ImageSource, Photo
from vlm.prompts import QuestionError, text_ids

YES, NO = "yes", "no"


@dataclass(frozen=True)
class YesNo:
    """The probability of yes against no, in 0..1, and how much of all probability the two have together.

    Where `share` is small the model would rather say something else: the question has other answers.
    """

    yes: float
    share: float

    @property
    def answer(self) -> str:
        return YES if self.yes >= 0.5 else NO


@torch.inference_mode()
def yes_or_no(
    captioner: Captioner, photos: Sequence[ImageSource | Photo], question: str
) -> list[YesNo]:
    """What the model's first token says to a question about each image, in one batch.

    Raises QuestionError where the question cannot be asked, or the model's words have no yes and no.
    """
    yes, no = first_tokens(captioner)
    images = captioner.encode_all(photos)
    projected, prompts = captioner.start(images, [question])
    ids = torch.tensor(prompts, device=captioner.model.device)  # (B, T)
    decoder = captioner.model.decoder
    logits = decoder.logits(decoder(ids, projected).hidden[:, -1])  # (B, V)
    probabilities = (logits / captioner.calibration(True)).softmax(dim=-1)
    pairs = probabilities[:, [yes, no]]  # (B, 2)
    shares = pairs.sum(dim=-1)
    return [YesNo(y, share) for y, share in zip((pairs[:, 0] / shares).tolist(), shares.tolist())]


def first_tokens(captioner: Captioner) -> tuple[int, int]:
    """The tokens that yes and no begin with. Raises QuestionError where they begin alike."""
    yes, no = (text_ids(captioner.tokenizer, word)[0] for word in (YES, NO))
    if yes == no:
        raise QuestionError("this model's words do not tell yes from no by one token; use vlm ask")
    return yes, no
