"""What the model says: an Answer with its words, and its one form as JSON and as a line to read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from vlm.citations import NOT_THERE, cited, sources
from vlm.judgement import Judgement, Verdict

# Types alone: what renders answers must not wait for torch.
if TYPE_CHECKING:
    from PIL import Image

    from vlm.boxes import Place
    from vlm.encoded_image import EncodedImage
    from vlm.explain.evidence import Evidence
    from vlm.explain.inside import Inside
    from vlm.explain.maps import WordMap
    from vlm.explain.method import Head
    from vlm.explain.paint import Style
    from vlm.explain.regions import Box


@dataclass(frozen=True)
class Word:
    """A word and the natural logarithm of its probability, given the words before it."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Alternative:
    """Another text that the model considered: its probability, and the score that it was ranked by."""

    text: str
    confidence: float
    score: float


ALONE = 0.25  # nats: below that the image did nothing for a word; the app's words.js has the same


@dataclass(frozen=True)
class ImageEffect:
    """What the image did for a text, in nats: its log-probability with the image less that without.

    `total` is of the whole text, `words` of each word; near 0 language alone would have written it, and below 0 the
    image spoke against it. Without an image the model gets `blind` in place of its patches: the "mean" of its training
    images, where its checkpoint holds that, else "zeros".
    """

    total: float
    words: tuple[float, ...]
    blind: Literal["mean", "zeros"]

    def alone(self, maps: Sequence[WordMap]) -> frozenset[int]:
        """Which of a text's maps are of words that the image did nothing for; a question's were given."""
        asked = len(maps) - len(self.words)
        return frozenset(asked + i for i, nats in enumerate(self.words) if abs(nats) < ALONE)


@dataclass(frozen=True)
class WhatIf:
    """What the model says with a part of the image hidden, its `answer`, beside what it said `before`.

    `same` is the text that it said before, with the probabilities that it has without the part.
    """

    answer: Answer
    before: Answer
    same: Answer

    @property
    def changed(self) -> bool:
        """Whether it says something else."""
        return self.answer.text != self.before.text

    @property
    def lost(self) -> float:
        """How many nats of log-probability the text has lost."""
        return sum(self.before.logprobs) - sum(self.same.logprobs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        parts = {"before": self.before, "same": self.same, "answer": self.answer}
        said = {name: part.to_dict() for name, part in parts.items()}
        return {"changed": self.changed, "lost": self.lost, **said}


@dataclass(frozen=True)
class Answer:
    """A caption, or the answer to `question`.

    `score` is what captions are ranked by, the mean log-probability of a token by default; answers are ranked by
    `confidence`, in 0..1 the probability of the whole text, however tokens spell it. `alternatives` are the other
    candidates, best first. `finished` is False where the text was cut at its greatest length. `ms` are the
    milliseconds spent on "read" (the photo's file), "encode" and "decode", and of the last on the "first" token;
    `batch` searches ran together, and each has its share of their time. A pickled Answer leaves its image behind, and
    then has no maps. `logprobs` are those of `ids`, and of the end where it `finished`. `judgement` says how far to
    trust the text, and why; it and the `verdict` are None where the checkpoint was never fitted to tell, as with those
    of other libraries.
    `fields` are what a parser of documents read, as JSON has them; see `vlm.fields`. `places` are the boxes that a text
    names by location tokens.
    """

    text: str
    score: float
    confidence: float
    words: tuple[Word, ...]
    alternatives: tuple[Alternative, ...]
    question: str | None
    finished: bool
    ms: dict[str, float]
    image: EncodedImage | None = field(repr=False, compare=False)
    ids: tuple[int, ...] = field(repr=False)
    logprobs: tuple[float, ...] = field(repr=False)
    judgement: Judgement | None = None
    fields: Any = None
    places: tuple[Place, ...] = ()
    batch: int = 1

    @property
    def verdict(self) -> Verdict | None:
        """How far to trust the text."""
        return None if self.judgement is None else self.judgement.verdict

    @cached_property
    def image_effect(self) -> ImageEffect:
        """How much likelier the image made the text and each of its words: one pass, when it is first asked for."""
        return self._image().effect_on(self)

    @cached_property
    def evidence(self) -> Evidence | None:
        """What the text rests on where passages stand beside its image, else None: two passes, when first asked for."""
        return None if self.image is None else self.image.evidence(self)

    @property
    def citation(self) -> str | None:
        """In words what a text beside passages rests on: "stands in notes.pdf, page 3", "from the photo", …

        None where there are no passages.
        """
        return None if self.evidence is None else cited(self.text, self.evidence)

    def maps(
        self,
        layer: int | None = None,
        head: int | None = None,
        method: str | None = None,
        *,
        heads: Sequence[Head] = (),
        foil: str | None = None,
    ) -> list[WordMap]:
        """One map for each word of the question, if any, and of the text, made by one of `vlm.explain.maps.METHODS`.

        By default it is logit, or attention where the model has no logit; a map says what made it.
        Methods that look at attention keep to one `layer`, one `head` or some `heads` `(layer, head)` that are chosen,
        counted from 0; contrast tells each word from a `foil`, such as a cat from a dog. Raises MethodError where there
        is no such method, layer or head, or where the method does not take what is given.
        """
        return self._image().maps(
            self.ids, self.question, layer, head, method, heads=heads, foil=foil
        )

    def instead(self, word: int, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest words in the place of one of the text's, from 0, with their probabilities, best first.

        An end of the text there is "". Raises MethodError where there is no such word.
        """
        return self._image().instead(self.ids, word, self.question, count)

    def inside(self, word: int, layer: int, head: int) -> Inside:
        """One head of cross-attention as it chose the first token of one of the text's words; all counted from 0.

        Raises MethodError where there is no such word, layer or head, or where the decoder attends to no patches.
        """
        return self._image().inside(self.ids, word, self.question, layer, head)

    def what_if(
        self,
        hide: Box | None = None,
        only: Box | None = None,
        pixels: bool = False,
        **options: Any,
    ) -> WhatIf:
        """What the model says with a region of the photo hidden, or with nothing `only` it shown.

        A region is `(left, top, right, bottom)` in pixels. It is hidden in the memory, so the image is not encoded
        again; with `pixels` it is painted over in the photo, see `EncodedImage.region`. `options` are those of a
        caption or an answer. Raises RegionError when the region is none.
        """
        image = self._image()
        if (box := hide if only is None else only) is None or None not in (hide, only):
            raise ValueError("give one region, to hide or to show only it")
        seen = image.without(box, pixels) if only is None else image.region(box, pixels)
        asked = self.question
        answer = seen.caption(**options) if asked is None else seen.ask(asked, **options)
        same = image.captioner.score_ids(seen, self.ids, self.question, self.finished)
        return WhatIf(answer, self, same)

    def overlay(
        self, word: str | int | None = None, method: str | None = None, **style: Any
    ) -> Image.Image:
        """The image with one word's map over it, or a labelled sheet of all words.

        `word` is a word (its first occurrence in the text, else in the question) or its index among `maps()`;
        `method` is one of theirs, and `style` are keywords of `vlm.explain.overlay.overlay` or, of all words, of its
        `sheet`, which also draw the text's own `places`; a sheet leaves words unpainted that language alone wrote.
        Raises ValueError when there is no such word.
        """
        from vlm.explain.overlay import overlay, sheet

        image, maps = self._image(), self.maps(method=method)
        style = {"places": self.places, **style}
        if word is None:
            style = {"alone": self.image_effect.alone(maps), **style}
            return sheet(image.picture, image.frame, maps, **style)
        if isinstance(word, str):
            matches = [m for m in maps if m.text.lower() == word.lower()]
            if not matches:
                raise ValueError(
                    f"{word!r} is not one of the words: {', '.join(m.text for m in maps)}"
                )
            first = min(matches, key=lambda match: match.role == "question")
            return overlay(image.picture, image.frame, first, **style)
        if not -len(maps) <= word < len(maps):
            raise ValueError(f"there is no word {word}; there are {len(maps)}")
        return overlay(image.picture, image.frame, maps[word], **style)

    def save(
        self,
        path: str | os.PathLike[str],
        method: str | None = None,
        style: Style | None = None,
    ) -> None:
        """Write all words' maps to a file of one of `vlm.explain.outputs.KINDS`, by its ending.

        A sheet (.png), an animation over the words (.webp), a page (.html) or arrays (.npz); `style` is that of the
        first two, see `vlm.explain.paint.STYLES`. Raises OutputError for another ending, OSError where it cannot be
        written.
        """
        from vlm.explain.outputs import check_output, save

        check_output(path, style)  # before the maps, which may take seconds
        image = self._image()
        maps = self.maps(method=method)
        alone = self.image_effect.alone(maps)
        save(path, image.picture, image.frame, maps, style, self.places, alone)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: a caption with its "candidates" where there are several, or a question with its "answer"."""
        effect = self.image_effect
        rest: dict[str, Any] = {
            "score": self.score,
            "confidence": self.confidence,
            "verdict": self.verdict,
            "finished": self.finished,
            "image_effect": effect.total,
            "blind": effect.blind,
            "words": [
                {**vars(word), "image_effect": nats} for word, nats in zip(self.words, effect.words)
            ],
            "ms": self.ms,
        }
        if self.fields is not None:
            rest["fields"] = self.fields
        if (found := self.evidence) is not None:
            rest["citation"] = self.citation
            rest["sources"] = sources(found)
            for word, shares, lost in zip(rest["words"], found.share_by_word, found.lost_by_word):
                word |= {"shares": shares, "lost": lost}  # of the sources, in their order
        if self.places:
            rest["places"] = [place.to_dict() for place in self.places]
        if self.question is not None:
            others = [{"answer": o.text, "confidence": o.confidence} for o in self.alternatives]
            said = {"question": self.question, "answer": self.text, **rest}
            return {**said, "alternatives": others}
        said = {"caption": self.text, **rest}
        if self.alternatives:
            own = Alternative(self.text, self.confidence, self.score)
            said["candidates"] = [
                {"caption": c.text, "confidence": c.confidence, "score": c.score}
                for c in (own, *self.alternatives)
            ]
        return said

    def _image(self) -> EncodedImage:
        if self.image is None:
            raise ValueError("this answer was pickled without its image; ask where the image is")
        return self.image

    def __getstate__(self) -> dict[str, Any]:
        # Which there is no image for any more where it goes.
        effect, found = self.image_effect, self.evidence
        return {**self.__dict__, "image": None, "image_effect": effect, "evidence": found}

    def __copy__(self) -> Answer:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Answer:
        return self


@dataclass(frozen=True)
class Progress:
    """How far a search has come: the words that it will not take back, and at its end the Answer.

    `tentative` are the words that follow in the candidate that leads just now; another may overtake it.
    """

    words: tuple[Word, ...]
    tentative: tuple[Word, ...] = ()
    answer: Answer | None = None


def with_verdict(line: str, answer: Answer) -> str:
    """A line about an answer, which says where the model is not sure of it or only guesses."""
    said = {"unsure": "not sure", "guess": "a guess: the model can't tell"}.get(
        answer.verdict or ""
    )
    return f"{line} [{said}]" if said else line


def answer_line(answer: Answer, with_question: bool) -> str:
    """The answer and the others that have a chance, as in "two (64 %), or three (20 %), one (9 %)"."""
    line = f"{answer.text} ({answer.confidence:.0%})"
    others = [o for o in answer.alternatives if o.confidence >= 0.01]
    if others:
        line += ", or " + ", ".join(f"{o.text} ({o.confidence:.0%})" for o in others)
    line = with_verdict(line, answer)
    if answer.citation not in (None, NOT_THERE):
        line += f"; {answer.citation}"
    return f"{answer.question} {line}" if with_question else line
