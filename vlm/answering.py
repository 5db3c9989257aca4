"""What a search has found, as an Answer, and as far as it is sure on the way there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from vlm.answers import Alternative, Answer, Progress, Word
from vlm.boxes import Place, places_of
from vlm.contradictions import without_false_ones
from vlm.copies import whole_copy
from vlm.fields import fields_of
from vlm.generate import Hypothesis
from vlm.judgement import judge
from vlm.passages_beside import respelled, spelled_as
from vlm.prompts import named_instruction
from vlm.tokenizer import Tokenizer, WordSpan

if TYPE_CHECKING:  # an image has answers made of itself
    from vlm.encoded_image import EncodedImage, Took


def found(
    image: EncodedImage, question: str | None, hypotheses: Sequence[Hypothesis], took: Took
) -> Answer:
    """The Answer that a search's last hypotheses for one prompt make."""
    tokenizer = image.captioner.tokenizer
    if image.passages:
        hypotheses = without_false_ones(tokenizer, hypotheses, image.passages)
    texts = _candidates(tokenizer, hypotheses, ranked_by_confidence=question is not None)
    if image.passages and question is not None:
        alternatives = [text for text, _ in texts]
        everyday = partial(_is_everyday, tokenizer)
        best = whole_copy(alternatives, question, image.passages, everyday)
        texts.sort(key=lambda one: one[0] is not best)
    return _told(image, question, texts, took)


def given(image: EncodedImage, question: str | None, hypothesis: Hypothesis, took: Took) -> Answer:
    """The Answer of a text that stays as it is, whatever a search would have made of it."""
    tokenizer = image.captioner.tokenizer
    texts = _candidates(tokenizer, [hypothesis], ranked_by_confidence=question is not None)
    return _told(image, question, texts, took)


def progress(tokenizer: Tokenizer, hypotheses: Sequence[Hypothesis]) -> Progress:
    """Where the search for one prompt stands, of its hypotheses that may still win, best first.

    The words are sure on which all of them agree.
    """
    leader, shared = hypotheses[0], _agreed(hypotheses)
    sure = _words(tokenizer.settled(shared), leader)
    return Progress(sure, _words(tokenizer.words(leader.ids), leader)[len(sure) :])


def sure_text(tokenizer: Tokenizer, hypotheses: Sequence[Hypothesis]) -> str:
    """What a search will say at least: the text up to the last word that `progress` calls sure."""
    ids = _agreed(hypotheses)
    sure = tokenizer.settled(ids)
    return tokenizer.decode(ids)[: sure[-1].stop] if sure else ""


def _told(
    image: EncodedImage,
    question: str | None,
    texts: Sequence[tuple[Alternative, Hypothesis]],
    took: Took,
) -> Answer:
    """The Answer of candidates, the one to be told first."""
    (best, hypothesis), *others = texts
    tokenizer = image.captioner.tokenizer
    text, words = best.text, _words(tokenizer.words(hypothesis.ids), hypothesis)
    if image.passages:
        everyday = partial(_is_everyday, tokenizer)
        spelled = spelled_as([word.text for word in words], image.passages, everyday)
        words = tuple(replace(word, text=own) for word, own in zip(words, spelled))
        text = respelled(text, spelled)
    return Answer(
        text=text,
        score=best.score,
        confidence=best.confidence,
        words=words,
        alternatives=tuple(other for other, _ in others),
        question=question,
        finished=hypothesis.finished,
        ms={"read": image.photo.entered.read_ms, "encode": image.encode_ms, **took.ms},
        batch=took.batch,
        image=image,
        ids=hypothesis.ids,
        logprobs=hypothesis.logprobs,
        judgement=judge(image, question is not None, best.confidence, hypothesis.logprobs),
        fields=fields_of(tokenizer, hypothesis.ids) if tokenizer.config.fields else None,
        places=_places(image, question, hypothesis.ids),
    )


def _places(image: EncodedImage, question: str | None, ids: Sequence[int]) -> tuple[Place, ...]:
    """The places that a text names; lines of text have four corners, all else two."""
    captioner = image.captioner
    if "locate" not in captioner.model.config.tasks:
        return ()
    told = None if question is None else named_instruction(captioner.tokenizer, question)
    corners = 4 if told == "ocr with regions" else 2
    return places_of(captioner.tokenizer, ids, image.frame, corners)


def _is_everyday(tokenizer: Tokenizer, word: str) -> bool:
    return len(tokenizer.encode(word)) == 1


def _candidates(
    tokenizer: Tokenizer, hypotheses: Sequence[Hypothesis], ranked_by_confidence: bool
) -> list[tuple[Alternative, Hypothesis]]:
    """The texts of a search's result, best first, each with the best hypothesis that spells it."""
    spelled: dict[str, list[Hypothesis]] = {}  # several token sequences may spell one text
    for hypothesis in {h.ids: h for h in hypotheses}.values():  # samples may coincide
        spelled.setdefault(tokenizer.decode(hypothesis.ids), []).append(hypothesis)
    texts = []
    for text, ways in spelled.items():
        probability = sum(math.exp(sum(way.logprobs)) for way in ways)
        texts.append((Alternative(text, min(1.0, probability), ways[0].score), ways[0]))
    if ranked_by_confidence:
        texts.sort(key=lambda pair: -pair[0].confidence)
    return texts


def _agreed(hypotheses: Sequence[Hypothesis]) -> tuple[int, ...]:
    """The ids that all hypotheses begin with that may still win."""
    shared = hypotheses[0].ids
    ended = [h for h in hypotheses if h.finished]
    for other in [h for h in hypotheses if not h.finished] + ended[:1]:
        pairs = enumerate(zip(shared, other.ids))
        shared = shared[: next((i for i, (a, b) in pairs if a != b), len(other.ids))]
    return shared


def _words(spans: Sequence[WordSpan], hypothesis: Hypothesis) -> tuple[Word, ...]:
    return tuple(
        Word(span.text, sum(hypothesis.logprobs[token] for token in span.tokens)) for span in spans
    )
