"""transformers' encoder-decoders of text, such as Marian and T5: which words of the source each target word drew on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm.attend.source import AttendError, Look
from vlm.attend.token_words import TokenWord, token_words


@dataclass(frozen=True, eq=False)
class TextPair:
    """A source and a target that a model has read together; see `vlm.attend.source.Source`.

    `cross_attention` is a layer each, `(H, T, S)`: row t of T is what chose the target's token t.
    """

    source_words: Sequence[TokenWord]
    target_words: Sequence[TokenWord]
    cross_attention: Sequence[Tensor]

    @property
    def words(self) -> list[str]:
        return [word.text for word in self.target_words]

    def looks(self) -> Iterator[Look]:
        """Of every head: a target word's rows in the mean, a source word's columns together."""
        over = tuple(word.text for word in self.source_words)
        for layer, heads in enumerate(self.cross_attention):
            for head, weights in enumerate(heads):  # (T, S)
                columns = [weights[:, list(word.places)].sum(dim=1) for word in self.source_words]
                by_word = torch.stack(columns, dim=1)
                rows = [by_word[list(word.places)].mean(dim=0) for word in self.target_words]
                yield Look(layer, head, over, torch.stack(rows))


def load_text_model(name: str) -> tuple[Any, Any]:
    """An encoder-decoder of a folder or hub id, and its tokenizer. Raises AttendError where there is none."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        # Fused attention gives no probabilities, and a pair of texts is short.
        model = AutoModelForSeq2SeqLM.from_pretrained(name, attn_implementation="eager")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AttendError(
            f"{name}: no encoder-decoder of transformers could be loaded from it ({reason})"
        ) from None
    return model.eval(), tokenizer


@torch.inference_mode()
def read_pair(model: Any, tokenizer: Any, source: str, target: str | None = None) -> TextPair:
    """Read a source with a target, by default the one that the model writes, in one pass that gives its attention.

    Raises AttendError where a text has no words, is too long for the model, or the model gives no probabilities.
    """
    inputs = tokenizer(source, return_tensors="pt").to(model.device)
    source_ids = inputs["input_ids"][0].tolist()
    source_words = token_words(tokenizer, source_ids)
    if not source_words:
        raise AttendError("the source has no words; write some")
    _check_length(model, len(source_ids), "source")
    if target is None:
        ids = model.generate(**inputs)  # (1, 1 + T), from the token that starts a target
        started, labels = ids[:, :-1], ids[0, 1:].tolist()
    else:
        wanted = tokenizer(text_target=target, return_tensors="pt")["input_ids"].to(model.device)
        started = model.prepare_decoder_input_ids_from_labels(labels=wanted)
        labels = wanted[0].tolist()
    target_words = token_words(tokenizer, labels)
    if not target_words:
        whose = "the model wrote" if target is None else "the target has"
        raise AttendError(f"{whose} no words; give a target with some")
    _check_length(model, len(labels), "target")
    read = model(**inputs, decoder_input_ids=started, output_attentions=True, use_cache=False)
    layers = read.cross_attentions
    if not layers or any(layer is None for layer in layers):
        raise AttendError(
            "the model gave no attention; load it with attn_implementation='eager', which keeps its probabilities"
        )
    return TextPair(source_words, target_words, [layer[0].float().cpu() for layer in layers])


def _check_length(model: Any, tokens: int, which: str) -> None:
    most = getattr(model.config, "max_position_embeddings", None)  # T5 has none
    if most is not None and tokens > most:
        raise AttendError(
            f"the {which} has {tokens} tokens, and the model reads at most {most}; shorten it"
        )
