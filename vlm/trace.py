"""A line about each request: what entered, how long each stage took, and how the result came about. No image is kept.

`docs/signals.md` says what a line holds; `vlm.trace_report` reads many of them.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import torch

from vlm import __version__
from vlm.answers import Answer
from vlm.captioner import Captioner
from vlm.options import Options
from vlm.trace_lines import TraceFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracer:
    """Writes a line about each request of one model; `settings` are what all of its lines share, see `settings_of`."""

    file: TraceFile
    settings: Mapping[str, Any]

    def answered(
        self, answer: Answer, options: Options, wait_ms: float = 0.0, source: str | None = None
    ) -> None:
        """Look at an answer that was given, in some passes of the model over its words, and write its line.

        `wait_ms` passed before its search began, and `source` is what the one who asked calls the photo.
        """
        try:
            start = time.perf_counter()
            seen = _seen(answer)
            ms = {**_latency(answer, wait_ms), "signals": (time.perf_counter() - start) * 1000}
            record = {
                **self._head(options, source),
                **_entered(answer),
                "ms": {stage: round(value, 2) for stage, value in ms.items()},
                "batch": answer.batch,
                **seen,
            }
        except Exception as error:  # a defect here must cost nobody an answer
            log.debug("a request was not traced", exc_info=True)
            self.file.lose(f"{type(error).__name__}: {error}")
        else:
            self.file.write(record)

    def failed(self, error: type[BaseException], source: str | None = None) -> None:
        """Write the line of a request that got no answer: the kind of error alone, as its words may name files."""
        self.file.write({**self._head(None, source), "error": error.__name__})

    def _head(self, options: Options | None, source: str | None) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        head: dict[str, Any] = {"time": now, **self.settings}
        if options is not None:
            head["options"] = vars(options)
        if source is not None:
            head["source"] = os.fsencode(source).decode("utf-8", "replace")
        return head


def settings_of(captioner: Captioner, model: str, precision: str, openvino: bool) -> dict[str, Any]:
    """What all lines of a model share: its name, what computes it and in what, and the program's version."""
    return {
        "version": __version__,
        "model": model,
        "device": str(captioner.model.device),
        "precision": precision,
        "openvino": openvino,
    }


def _entered(answer: Answer) -> dict[str, Any]:
    """The image, the question and the passages beside the image: their kinds, sizes and hashes."""
    assert answer.image is not None
    photo = answer.image.photo
    width, height = photo.entered.size
    image = {
        "format": photo.entered.format,
        "width": width,
        "height": height,
        "sha256": photo.sha256,
    }
    asked = answer.question
    question = None
    if asked is not None:
        question = {"characters": len(asked), "sha256": _hash(asked)}
    task = "caption" if asked is None else "answer"
    retrieved = [
        {
            "page": passage.page,
            "start": passage.start,
            "characters": len(passage.text),
            "sha256": _hash(passage.text),
        }
        for passage in dict.fromkeys(answer.image.passages)  # a long one is there once a part
    ]
    return {"task": task, "image": image, "question": question, "retrieved": retrieved}


def _latency(answer: Answer, wait_ms: float) -> dict[str, float]:
    """Milliseconds by stage, as who waits for the answer sees them: of a search all that its batch took."""
    first, decode = answer.ms["first"] * answer.batch, answer.ms["decode"] * answer.batch
    return {
        "read": answer.ms["read"],
        "encode": answer.ms["encode"],
        "wait": wait_ms,
        "first_token": first,
        "tokens": decode - first,
    }


def _seen(answer: Answer) -> dict[str, Any]:
    """How the result came about: the text's length, how far to trust it, and what its words drew on."""
    effect = answer.image_effect
    words = zip(answer.words, word_entropies(answer), effect.words, strict=True)
    judgement = answer.judgement
    return {
        "tokens": len(answer.ids),
        "finished": answer.finished,
        "verdict": answer.verdict,
        "confidence": round(answer.confidence, 4),
        "photo": None if judgement is None else judgement.photo,
        "image_effect": round(effect.total, 3),
        "blind": effect.blind,
        "shares": {name: round(share, 4) for name, share in attention_shares(answer).items()},
        "words": [
            {"logprob": round(word.logprob, 3), "entropy": round(nats, 3), "effect": round(did, 3)}
            for word, nats, did in words
        ],
    }


def attention_shares(answer: Answer) -> dict[str, float]:
    """The share of attention that fell on each segment of the memory, in the mean of the text's words.

    None of a text without words, or without a photo.
    """
    assert answer.image is not None
    if answer.image.blank:
        return {}
    maps = [m for m in answer.maps(method="attention") if m.role != "question"]
    if not maps:
        return {}
    by_word = [{answer.image.memory.image.name: m.mass, **m.elsewhere} for m in maps]
    return {name: sum(word[name] for word in by_word) / len(maps) for name in by_word[0]}


@torch.inference_mode()
def word_entropies(answer: Answer) -> list[float]:
    """How undecided the model was at each word, in nats: the sum of its tokens' entropies, given what stands before."""
    image, ids = answer.image, answer.ids
    assert image is not None
    captioner, asked = image.captioner, answer.question
    projected, (prompt,) = captioner.start([image], None if asked is None else [asked])
    sequence = torch.tensor([[*prompt, *ids[:-1]]], device=captioner.model.device)
    decoder = captioner.model.decoder
    logits = decoder.logits(decoder(sequence, projected).hidden[0, len(prompt) - 1 :])  # (T, V)
    chances = (logits.float() / captioner.calibration(asked is not None)).softmax(dim=-1)
    by_token = torch.special.entr(chances).sum(dim=-1).tolist()  # (T,)
    words = captioner.tokenizer.words(ids)
    return [math.fsum(by_token[place] for place in word.tokens) for word in words]


def _hash(text: str) -> str:
    """Of what people typed, which may hold half a character."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
