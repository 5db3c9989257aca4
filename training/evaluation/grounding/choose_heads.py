"""Which heads' attention makes the maps: those that together look where hiding the image makes words unlikely.

No boxes are asked: occlusion of the model itself is what attention is held against, for words of human captions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm.captioner import Captioner
from vlm.model.config import ModelConfig

from ...data.atomic import replace_file
from ...data.records import DataError
from ...data.report import Report
from .explainers import by_method
from .places import Example
from .pointing import encoded
from .sanity import last_words

GAIN = 0.005  # of the correlation, without which a further head is left out

Head = tuple[int, int]


def choose_heads(
    captioner: Captioner, examples: Sequence[Example], report: Report
) -> tuple[list[Head], float]:
    """The heads whose mean attention agrees best with occlusion, and their mean correlation with it.

    The best head comes first, and each further one is that which adds most. Words are the last ones of phrases.
    """
    config = captioner.model.config.decoder
    heads = [(y, h) for y in range(config.sublayers.count("c")) for h in range(config.heads)]
    truths, looks = [], []
    hiding = by_method("occlusion")
    for _, image, own in encoded(captioner, examples, report):
        ids, positions = last_words(captioner, own[0])
        hidden = hiding(image, ids, None)
        by_head = [by_method("attention", *head)(image, ids, None) for head in heads]
        for position in positions:
            truths.append(hidden[position].ravel())
            looks.append(np.stack([maps[position].ravel() for maps in by_head]))
    if not truths:
        raise DataError("no caption has a phrase to choose heads by")
    truth, look = np.stack(truths), np.stack(looks, axis=1)  # (N, P), (heads, N, P)
    chosen: list[int] = []
    best = 0.0
    while len(chosen) < len(heads):
        left = [head for head in range(len(heads)) if head not in chosen]
        scores = [agreement(look[[*chosen, head]].mean(axis=0), truth) for head in left]
        if chosen and max(scores) < best + GAIN:
            break
        best = max(scores)
        chosen.append(left[int(np.argmax(scores))])
    return sorted(heads[head] for head in chosen), best


def agreement(maps: np.ndarray, truth: np.ndarray) -> float:
    """The mean correlation of maps with others, `(N, P)` each."""
    one, other = (values - values.mean(axis=1, keepdims=True) for values in (maps, truth))
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / size.clip(min=1e-12)).mean())


def write_heads(folder: Path, heads: Sequence[Head]) -> None:
    """Name the alignment heads in a checkpoint's config.json. Raises DataError where there is none to write."""
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        values["decoder"]["alignment_heads"] = [list(head) for head in heads]
        content = json.dumps(ModelConfig.from_dict(values).to_dict(), indent=2) + "\n"
        replace_file(file, lambda opened: opened.write(content.encode()))
    except OSError as error:
        raise DataError(
            f"the heads cannot be written into {file}: {error.strerror}; name a checkpoint's folder"
        ) from None
