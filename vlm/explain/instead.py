"""What the model might have written in a word's place: whole words, where a decoder chooses tokens."""

from __future__ import annotations

from collections import defaultdict

import torch

from vlm.explain.finished import Finished
from vlm.explain.method import MethodError

MAX_TOKENS = 6  # of an alternative: longer words are seldom likely, and are left unfinished


@torch.inference_mode()
def instead(
    finished: Finished, word: int, count: int = 5, calibration: float = 1.0
) -> list[tuple[str, float]]:
    """The likeliest words in the place of a text's word, each with its probability, best first; it may be among them.

    The place's likeliest tokens each go on as the model likes best until their word is complete. Logits are divided by
    `calibration`. An end of the text there is "". Raises MethodError where the text has no such word.
    """
    tokenizer, model = finished.tokenizer, finished.model
    spans = tokenizer.words(finished.ids)
    if not 0 <= word < len(spans):
        raise MethodError(f"there is no word {word}; there are {len(spans)}")
    start = spans[word].tokens[0]
    before = list(finished.ids[:start])
    projected = finished.projected
    if finished.question is not None and model.reader is not None:
        projected = model.decoder.project(model.read(projected, [finished.asked.ids]))

    def logprobs(texts: list[list[int]]) -> torch.Tensor:
        """Of the token that follows each of some texts of one length, `(N, V)`."""
        rows = [[*finished.prompt.ids, *text] for text in texts]
        hidden = model.decoder(torch.tensor(rows, device=model.device), projected).hidden[:, -1]
        return (model.decoder.logits(hidden).float() / calibration).log_softmax(dim=-1)

    # Several tokens may begin one word.
    first = logprobs([before])[0].topk(2 * count)
    found: dict[str, float] = defaultdict(float)
    open_texts = []
    for token, logprob in zip(first.indices.tolist(), first.values.tolist()):
        if token == tokenizer.end:
            found[""] += float(torch.tensor(logprob).exp())
        else:
            open_texts.append(([*before, token], [logprob]))
    for length in range(1, MAX_TOKENS + 1):
        best = logprobs([text for text, _ in open_texts]).max(dim=1) if open_texts else None
        if best is None:
            break
        still_open = []
        for (text, own), token, logprob in zip(
            open_texts, best.indices.tolist(), best.values.tolist()
        ):
            ended = token == tokenizer.end or length == MAX_TOKENS
            grown = text if ended else [*text, token]
            done = tokenizer.words(grown) if ended else tokenizer.settled(grown)
            if len(done) <= word:
                if not ended:
                    still_open.append((grown, [*own, logprob]))
                continue
            last = done[word].tokens[-1] - start  # what follows the word is not its own
            spent = sum([*own, logprob][: last + 1])
            found[done[word].text] += float(torch.tensor(spent).exp())
        open_texts = still_open
    ranked = sorted(found.items(), key=lambda pair: -pair[1])
    return ranked[:count]
