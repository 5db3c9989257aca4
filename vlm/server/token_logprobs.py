"""The probability of each token of a text, and what else the model might have written there, as OpenAI shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlm.encoded_image import EncodedImage
from vlm.tokenizer import Tokenizer


@torch.inference_mode()
def token_logprobs(
    image: EncodedImage, question: str | None, ids: Sequence[int], tops: int
) -> list[dict[str, Any]]:
    """For each token of a caption or an answer its text, calibrated log-probability and the `tops` likeliest tokens.

    The texts of the tokens make up the text. One pass over the finished text, as maps are made.
    """
    captioner, tokenizer = image.captioner, image.captioner.tokenizer
    if not ids:
        return []
    projected, (prompt,) = captioner.start([image], None if question is None else [question])
    sequence = torch.tensor([[*prompt, *ids[:-1]]], device=captioner.model.device)
    hidden = captioner.model.decoder(sequence, projected).hidden[0, len(prompt) - 1 :]
    logits = captioner.model.decoder.logits(hidden)  # (T, V)
    logprobs = (logits / captioner.calibration(question is not None)).log_softmax(dim=-1)
    likeliest = logprobs.topk(max(1, tops), dim=-1)
    entries = []
    for i, token in enumerate(ids):
        others = zip(likeliest.indices[i, :tops].tolist(), likeliest.values[i, :tops].tolist())
        entries.append(
            {
                **_entry(tokenizer, ids[:i], token, logprobs[i, token].item()),
                "top_logprobs": [_entry(tokenizer, ids[:i], *other) for other in others],
            }
        )
    return entries


def _entry(
    tokenizer: Tokenizer, before: Sequence[int], token: int, logprob: float
) -> dict[str, Any]:
    text = _piece(tokenizer, before, token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _piece(tokenizer: Tokenizer, before: Sequence[int], token: int) -> str:
    """What a token adds to the text; bytes of a character come with its last one, special tokens have their names."""
    if token == tokenizer.end:
        return tokenizer.config.end
    start = tokenizer.decode(before).rstrip("\ufffd")
    text = tokenizer.decode([*before, token]).rstrip("\ufffd")
    return text[len(start) :] if text.startswith(start) else ""
