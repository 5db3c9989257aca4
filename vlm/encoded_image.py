"""An image that has been encoded: what can be asked of it, and shown of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from vlm import kinds
from vlm.answering import found, progress
from vlm.answers import Answer, ImageEffect, Progress, Word
from vlm.documents.passages import Passage
from vlm.explain.evidence import Evidence, evidence
from vlm.explain.finished import Finished
from vlm.explain.inside import Inside, inside
from vlm.explain.instead import instead
from vlm.explain.maps import WordMap, word_maps
from vlm.explain.method import Choice, Head, MethodError
from vlm.explain.regions import Box, RegionError, filled, slots_shown
from vlm.images import Frame, Photo
from vlm.model.decoder import Projected
from vlm.model.grounding import PASSAGE
from vlm.model.memory import Memory
from vlm.options import CAPTION, READING, choose
from vlm.passages_beside import DocumentsError, first_that_fit, fitting, stands_in
from vlm.prompts import QuestionError, instruction

if TYPE_CHECKING:  # what encodes images is below what they are
    from vlm.captioner import Captioner
    from vlm.documents.photo_pairs import PhotoPairs
    from vlm.documents.ranking import Searchable


READINGS = 8  # of a thing that a question names by its kind, from which one is chosen


@dataclass(frozen=True)
class Took:
    """The ms of a search, "decode" and of those "first" up to its first token: its share of a `batch` of searches."""

    ms: dict[str, float]
    batch: int = 1

    @classmethod
    def since(cls, start: float, first: float | None = None, batch: int = 1) -> Took:
        """What began at `start` and had its `first` token, by `time.perf_counter`, and ends now."""
        times = {"first": first, "decode": time.perf_counter()}
        ms = {name: (at - start) * 1000 / batch for name, at in times.items() if at is not None}
        return cls(ms, batch)


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image that has been encoded; captions, questions and maps share the encoding."""

    captioner: Captioner
    photo: Photo
    memory: Memory
    projected: Projected
    encode_ms: float
    whole: bool = True  # whether all of the picture's patches are shown
    passages: tuple[
        Passage, ...
    ] = ()  # what stands beside it, in the order of the memory's segments
    question: str | None = None  # what is painted above the picture
    header: float = 0.0  # the share of the height that this takes
    plain: EncodedImage | None = None  # the image that it was painted above
    blank: bool = False  # whether this stands for no photo; see `Captioner.without_photo`

    @property
    def picture(self) -> Image.Image:
        """The photo that `frame` lies on, upright, RGB."""
        return self.photo.picture

    @property
    def frame(self) -> Frame:
        """Where what the model saw lies on `picture`."""
        return self.photo.frame

    def asked(self, question: str | None) -> EncodedImage:
        """The image as the model sees it when it is asked: itself, unless questions are painted above the picture.

        Then it is encoded anew with each. Raises QuestionError, see `ask`.
        """
        painted = self.captioner.tokenizer.config.painted
        if question is None or question == self.question or not painted:
            return self
        self.captioner.prompt(question)  # what is wrong is told here
        plain = self.plain or self
        return self.captioner.painted(plain, question)

    def read_as(self, question: str) -> str:
        """A question as it is asked beside passages: a thing that it names by its kind is named as the photo shows it.

        "What is the animal called?" becomes "What is the dog called?", as the model says of the photo alone, unless it
        says nothing of it or the passages speak of "the animal" themselves; see `vlm.kinds`.
        """
        kind = kinds.kind_in(question) if self.passages and not self.blank else None
        if kind is None or stands_in(kind, self.passages):
            return question
        shown = self.alone.ask(kinds.which(kind), beams=READINGS)
        likely = [(shown.text, shown.confidence)]
        likely += [(other.text, other.confidence) for other in shown.alternatives]
        name = kinds.choose(kind, likely, self.passages)
        return question if name is None else kinds.with_name(question, name)

    def caption(self, **options: Any) -> Answer:
        """Caption the image; `options` are those of `vlm.Options`, three beams by default."""
        return self.captioner.write([self], None, choose(CAPTION, options))[0]

    def parse(self, **options: Any) -> Answer:
        """Read a document to its end, for its `fields` where the model marks them; greedily by default."""
        return self.captioner.write([self], None, choose(READING, options))[0]

    def tell(self, name: str, text: str = "", **options: Any) -> Answer:
        """Have one of the things done that the model was trained to be told, such as "ocr" or "find".

        `text` is what some of them are about. Raises QuestionError when there is no such, or the text is missing.
        """
        instruction(self.captioner.tokenizer, name, text)  # what is wrong is told here
        return self.ask(f"{name}: {text}" if text else name, **options)

    def describe(self, detail: Literal["detailed", "more detailed"], **options: Any) -> Answer:
        """A caption of a sentence or two, or of a paragraph; see `tell`."""
        return self.tell(f"{detail} caption", **options)

    def ocr(self, places: bool = False, **options: Any) -> Answer:
        """The text in the image, or each line of it with its `places`; see `tell`."""
        return self.tell("ocr with regions" if places else "ocr", **options)

    def detect(self, described: bool = False, **options: Any) -> Answer:
        """The things in the image, by category or each `described`, with their `places`; see `tell`."""
        return self.tell("describe regions" if described else "detect", **options)

    def ground(self, caption: str, **options: Any) -> Answer:
        """The phrases of a caption, with their `places`; see `tell`."""
        return self.tell("ground", caption, **options)

    def ask(self, question: str, documents: Sequence[str | Passage] = (), **options: Any) -> Answer:
        """Answer a question, with `documents` also from them, in place of those that stand beside it; see `beside`.

        The answer's `question` is as it was asked of the model, see `read_as`.
        Raises QuestionError when the question is empty or too long, and DocumentsError.
        """
        image = self.beside(documents) if documents else self
        return image.ask_all([question], **options)[0]

    @torch.inference_mode()
    def beside(self, documents: Sequence[str | Passage]) -> EncodedImage:
        """The same image with passages beside it, in place of those that were, for its questions to be answered from.

        They are texts of one's own, or what a search in an index gave. Without any it is the image alone. Raises
        DocumentsError when a text is empty, they are too many, or the model reads none.
        """
        if not documents and not self.passages:
            return self
        return self.captioner.beside(self.alone, documents)

    @property
    def alone(self) -> EncodedImage:
        """The same image without passages."""
        if not self.passages:
            return self
        first = next(s.start for s in self.memory.segments if s.name.startswith(PASSAGE))
        projected = replace(self.projected, grounding=None)
        return replace(self, memory=self.memory.before(first), projected=projected, passages=())

    def ask_all(self, questions: Sequence[str], **options: Any) -> list[Answer]:
        """Answer several questions in one batch that shares the encoding. Raises QuestionError, see `ask`."""
        if isinstance(questions, str):
            raise QuestionError("ask_all takes a list of questions; ask takes a single one")
        questions = list(questions)
        if not all(isinstance(question, str) for question in questions):
            raise QuestionError("a question must be a text")
        if not questions:
            return []
        chosen = self.captioner.choose(questions, options)
        return self.captioner.write([self], [self.read_as(asked) for asked in questions], chosen)

    def follow(self, question: str | None = None, **options: Any) -> Iterator[Progress]:
        """Watch one search for a caption or an answer, token by token; the last Progress has the Answer.

        A word is sure once all candidates that may still win have it, so beams may be followed, too. Beside passages
        the Answer may still have other words than were sure, see `vlm.copies` and `vlm.contradictions`. `options` are
        those of `caption` or `ask`. Closing the iterator stops the search. Raises what `ask` raises.
        """
        asked = None if question is None else [question]
        chosen = self.captioner.choose(asked, options)
        image = self.asked(question)
        start = time.perf_counter()
        if question is not None:
            question = image.read_as(question)
            asked = [question]
        projected, prompts = self.captioner.start([image], asked)
        nudges = self.captioner.nudges([image], asked)
        answering = question is not None
        first = None
        for (hypotheses,) in self.captioner.steps(projected, prompts, chosen, answering, nudges):
            first = first or time.perf_counter()
            yield progress(self.captioner.tokenizer, hypotheses)
        took = Took.since(start, first)
        answer = found(image, question, hypotheses, took)
        yield Progress(answer.words, answer=answer)

    def stream(self, question: str | None = None, **options: Any) -> Iterator[Word]:
        """Yield the words of a greedy (or sampled) caption or answer as soon as each is complete.

        `options` are those of `vlm.Options`, without the task's beams; `follow` is for those. Raises ValueError for
        several beams or candidates.
        """
        options = {"beams": 1, **options}
        chosen = self.captioner.choose(None if question is None else [question], options)
        if chosen.beams > 1:
            raise ValueError("beams may change words that were shown; stream with beams=1")
        if chosen.candidates > 1:
            raise ValueError("another candidate may become the best; stream with candidates=1")
        shown = 0
        for stand in self.follow(question, **options):
            yield from stand.words[shown:]
            shown = max(shown, len(stand.words))

    def explain(self, text: str, question: str | None = None) -> Answer:
        """A text of the user's own as an Answer: the probability and the maps the model gives it."""
        return self.captioner.score(self, text, question)

    def maps(
        self,
        ids: Sequence[int],
        question: str | None = None,
        layer: int | None = None,
        head: int | None = None,
        method: str | None = None,
        *,
        heads: Sequence[Head] = (),
        foil: str | None = None,
    ) -> list[WordMap]:
        """Maps of the words of `ids`; see `Answer.maps`. Raises MethodError where there is no photo."""
        if self.blank:
            raise MethodError(
                "there is no photo for words to look at; Answer.evidence says which passages they rest on"
            )
        choice = Choice(layer, head, tuple(heads), foil)
        return word_maps(self.finished(ids, question), method, choice)

    def instead(
        self, ids: Sequence[int], word: int, question: str | None = None, count: int = 5
    ) -> list[tuple[str, float]]:
        """What might stand in a word's place; see `Answer.instead`."""
        calibration = self.captioner.calibration(question is not None)
        return instead(self.finished(ids, question), word, count, calibration)

    def inside(
        self, ids: Sequence[int], word: int, question: str | None, layer: int, head: int
    ) -> Inside:
        """What a head did for a word; see `Answer.inside`."""
        spans = self.captioner.tokenizer.words(ids)
        if not 0 <= word < len(spans):
            raise MethodError(f"there is no word {word}; there are {len(spans)}")
        return inside(self.finished(ids, question), spans[word].tokens[0], layer, head)

    def finished(self, ids: Sequence[int], question: str | None = None) -> Finished:
        """A caption's or an answer's tokens as what explanations take."""
        captioner, image = self.captioner, self.asked(question)
        return Finished(
            captioner.model,
            captioner.tokenizer,
            image.memory,
            image.projected,
            tuple(ids),
            question,
            (lambda: captioner.preprocess.pixels(image.photo.seen)) if image.whole else None,
            image.header,
        )

    def region(self, box: Box, pixels: bool = False) -> EncodedImage:
        """The same with nothing shown but a box `(left, top, right, bottom)` of the picture's pixels.

        Patches whose centre lies outside are hidden in the memory, and with them what it holds of the whole photo, such
        as tags. Patches know a little of their neighbours: with `pixels` the rest of the picture is painted over and
        the image encoded anew. Raises RegionError when the box is none, or holds no patch.
        """
        return self._shown(box, True, pixels)

    def without(self, box: Box, pixels: bool = False) -> EncodedImage:
        """The same with a box `(left, top, right, bottom)` of the picture hidden, as `region` hides the rest."""
        return self._shown(box, False, pixels)

    def _shown(self, box: Box, inside: bool, pixels: bool) -> EncodedImage:
        if self.blank:
            raise RegionError("there is no photo to hide a part of")
        if self.plain is not None:
            return self.plain._shown(box, inside, pixels).asked(self.question)
        if pixels or self.captioner.tokenizer.config.painted:  # there is no memory to hide them in
            if not self.whole:
                raise RegionError(
                    "some patches are hidden in the memory already; hide all in the picture, or all there"
                )
            preprocess = self.captioner.preprocess
            picture = filled(self.picture, self.frame, preprocess, box, inside)
            return self.captioner.encode(picture).beside(self.passages)
        shown = slots_shown(self.memory, self.frame, box, inside)
        memory = replace(self.memory, mask=shown)
        return replace(self, memory=memory, projected=self.projected.showing(shown), whole=False)

    def effect_on(self, answer: Answer) -> ImageEffect:
        """What the image did for an answer; see `Answer.image_effect`."""
        blind = self._unseen(answer)
        words = tuple(w.logprob - same.logprob for w, same in zip(answer.words, blind.words))
        own = answer
        if self.passages:  # its end may stand for other endings, see `vlm.contradictions`
            own = self.captioner.score_ids(self, answer.ids, answer.question, answer.finished)
        total = sum(own.logprobs) - sum(blind.logprobs)
        has_mean = self.captioner.model.mean_patches is not None
        return ImageEffect(total, words, "mean" if has_mean else "zeros")

    @cached_property
    def shows(self) -> str:
        """What the photo shows, as words to search with: its caption and its tags; nothing where there is no photo."""
        if self.blank:
            return ""
        tags = [s.words[0] for s in self.memory.segments if s.name == "tags" and s.words]
        named = dict.fromkeys(word for words in tags for word in words if word)
        return " ".join([self.caption(beams=1).text, *named])

    @cached_property
    def vector(self) -> list[float]:
        """What the photo is like, `(D,)`: the mean of its patches in the memory, less that of no photo."""
        own = self.memory.tokens[0, : self.memory.image.stop].mean(dim=0)
        return (own - torch.tensor(self.captioner.blank_vector).to(own)).tolist()

    def recall(self, pairs: PhotoPairs) -> EncodedImage:
        """The same image beside the captions of photos that are like it, as many as are read, for its own caption.

        Names that they have may come into it (SmallCap, Ramos et al. 2023). Raises DocumentsError where `pairs` has
        none, or as `beside` does.
        """
        config = self.captioner.reading
        found = [one.passage for one in pairs.similar(self.vector, config.most)]
        if not found:
            raise DocumentsError(f"{pairs.path} holds no pairs of photos and captions yet")
        return self.beside(first_that_fit(found, self.captioner.tokenizer, config))

    def look_up(
        self, index: Searchable, question: str, also: Sequence[Passage] = ()
    ) -> EncodedImage:
        """The same image beside the passages of an index that a question is best answered from, as many as are read.

        What the image shows is looked for, too: its caption and its tags. Passages that stand beside it whatever is
        found, such as its metadata, are given as `also`. Raises DocumentsError, see `beside`.
        """
        config = self.captioner.reading
        found = index.search(f"{question} {self.alone.shows}", config.most)
        passages = [*also, *(one.passage for one in found)]
        fitting(also, self.captioner.tokenizer, config)  # none of these is left out: it is told
        return self.beside(first_that_fit(passages, self.captioner.tokenizer, config))

    def evidence(self, answer: Answer) -> Evidence | None:
        """What an answer rests on, where passages are beside the image; see `Answer.evidence`."""
        if not self.passages:
            return None
        if self.blank:
            return evidence(self.finished(answer.ids, answer.question), self.passages, None)
        # The end, where there is one, is no word's.
        pairs = zip(answer.logprobs[: len(answer.ids)], self._unseen(answer).logprobs)
        lost = torch.tensor([max(0.0, own - blind) for own, blind in pairs])
        return evidence(self.finished(answer.ids, answer.question), self.passages, lost)

    def _unseen(self, answer: Answer) -> Answer:
        """A text of this image as the model judges it without the photo, beside the same passages."""
        memory, projected = self.captioner.blind
        unseen = replace(self, memory=memory, projected=projected, passages=())
        if self.passages:
            unseen = self.captioner.beside(unseen, self.passages)
        return self.captioner.score_ids(unseen, answer.ids, answer.question, answer.finished)

    def shrunk(self, side: int) -> EncodedImage:
        """The same with a picture of at most `side` pixels a side, for those who keep many; its maps lie as before."""
        picture = self.picture.copy()
        picture.thumbnail((side, side))
        frame = self.frame.scaled(*picture.size)
        small = replace(self, photo=replace(self.photo, frame=frame, whole=lambda: picture))
        if self.plain is None:
            return small
        plain = replace(self.plain.photo, frame=frame, whole=lambda: picture)
        return replace(small, plain=replace(self.plain, photo=plain))

    def __reduce__(self) -> Any:
        raise TypeError("an encoded image holds its model; pickle its answers, or encode it anew")

    def __copy__(self) -> EncodedImage:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> EncodedImage:
        return self
