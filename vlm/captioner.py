"""The facade: an image and maybe a question in, an Answer out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from vlm.answers import (
    Answer,
    ImageEffect,
    Judgement,
    Progress,
    Word,
    candidates,
    progress,
    words_of,
)
from vlm.boxes import Place, places_of
from vlm.documents.passages import Passage
from vlm.explain.evidence import Evidence, evidence
from vlm.explain.finished import Finished
from vlm.explain.inside import Inside, inside
from vlm.explain.instead import instead
from vlm.explain.maps import WordMap, word_maps
from vlm.explain.method import Choice, Head, MethodError
from vlm.explain.regions import Box, RegionError, filled, slots_shown
from vlm.fields import fields_of
from vlm.generate import Hypothesis, stream
from vlm.images import MAX_PIXELS, Frame, ImageError, ImageSource, Photo, read_photo
from vlm.images.header import with_header
from vlm.model.decoder import Projected
from vlm.model.grounding import PASSAGE, passage_ids
from vlm.model.memory import Memory, below_header, image_memory
from vlm.model.model import VisionLanguageModel
from vlm.nudges import Nudge
from vlm.options import ANSWER, CAPTION, READING, TOLD, Options, choose
from vlm.passages_beside import DocumentsError, as_passages, first_that_fit, fitting, spelled_as
from vlm.prompts import (
    Prompt,
    QuestionError,
    caption_prompt,
    instruction,
    named_instruction,
    question_prompt,
    text_ids,
)
from vlm.tokenizer import Tokenizer

if TYPE_CHECKING:  # an index needs packages of an extra
    from vlm.documents.index import Index

NO_DOCUMENTS = (
    "this model reads no documents beside an image; the recipe small-documents.yaml teaches one to"
)
BATCH = 8  # images encoded and decoded together


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
        return self.captioner.write([self], questions, self.captioner.choose(questions, options))

    def follow(self, question: str | None = None, **options: Any) -> Iterator[Progress]:
        """Watch one search for a caption or an answer, token by token; the last Progress has the Answer.

        A word is sure once all candidates that may still win have it, so beams may be followed, too. `options` are
        those of `caption` or `ask`. Closing the iterator stops the search. Raises what `ask` raises.
        """
        asked = None if question is None else [question]
        chosen = self.captioner.choose(asked, options)
        image = self.asked(question)
        start = time.perf_counter()
        projected, prompts = self.captioner.start([image], asked)
        nudges = self.captioner.nudges([image], asked)
        answering = question is not None
        first = None
        for (hypotheses,) in self.captioner.steps(projected, prompts, chosen, answering, nudges):
            first = first or time.perf_counter()
            yield progress(self.captioner.tokenizer, hypotheses)
        took = Took.since(start, first)
        answer = self.captioner.answer(image, question, hypotheses, took)
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
        """Maps of the words of `ids`; see `Answer.maps`."""
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
        if self.plain is not None:
            return self.plain._shown(box, inside, pixels).asked(self.question)
        if pixels or self.captioner.tokenizer.config.painted:  # there is no memory to hide them in
            if not self.whole:
                raise RegionError(
                    "some patches are hidden in the memory already; hide all in the picture, or all there"
                )
            preprocess = self.captioner.preprocess
            return self.captioner.encode(filled(self.picture, self.frame, preprocess, box, inside))
        shown = slots_shown(self.memory, self.frame, box, inside)
        memory = replace(self.memory, mask=shown)
        return replace(self, memory=memory, projected=self.projected.showing(shown), whole=False)

    def effect_on(self, answer: Answer) -> ImageEffect:
        """What the image did for an answer; see `Answer.image_effect`."""
        blind = self._unseen(answer)
        words = tuple(w.logprob - same.logprob for w, same in zip(answer.words, blind.words))
        total = sum(answer.logprobs) - sum(blind.logprobs)
        has_mean = self.captioner.model.mean_patches is not None
        return ImageEffect(total, words, "mean" if has_mean else "zeros")

    @cached_property
    def shows(self) -> str:
        """What the photo shows, as words to search with: its caption and its tags."""
        tags = [s.words[0] for s in self.memory.segments if s.name == "tags" and s.words]
        named = dict.fromkeys(word for words in tags for word in words if word)
        return " ".join([self.caption(beams=1).text, *named])

    def look_up(self, index: Index, question: str) -> EncodedImage:
        """The same image beside the passages of an index that a question is best answered from, as many as are read.

        What the image shows is looked for, too: its caption and its tags. Raises DocumentsError, see `beside`.
        """
        if not self.captioner.reads_documents:
            raise DocumentsError(NO_DOCUMENTS)
        config = self.captioner.model.config.documents
        assert config is not None
        found = index.search(f"{question} {self.alone.shows}", config.most)
        passages = [one.passage for one in found]
        return self.beside(first_that_fit(passages, self.captioner.tokenizer, config))

    def evidence(self, answer: Answer) -> Evidence | None:
        """What an answer rests on, where passages are beside the image; see `Answer.evidence`."""
        if not self.passages:
            return None
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


class Captioner:
    """A model, its tokenizer and its preprocessing. Holds no state between calls."""

    def __init__(self, model: VisionLanguageModel, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.preprocess = model.config.vision.preprocess

    @property
    def reads_documents(self) -> bool:
        """Whether documents can stand beside an image."""
        model = self.model
        return model.config.documents is not None and isinstance(model, VisionLanguageModel)

    @cached_property
    def blind(self) -> tuple[Memory, Projected]:
        """What the model sees where it is shown no image: its mean patches, or zeros where it holds none."""
        height, width = self.preprocess.size
        with torch.inference_mode():
            pixels = torch.zeros(1, 3, height, width, device=self.model.device)
            patches, grid = self.model.vision(pixels)
            mean = self.model.mean_patches
            patches = torch.zeros_like(patches) if mean is None else mean[None].to(patches.dtype)
            memory = self.model.remember(patches, grid)
            return memory, self.model.project(memory)

    @torch.inference_mode()
    def beside(self, image: EncodedImage, documents: Sequence[str | Passage]) -> EncodedImage:
        """An image, which has none, with passages; see `EncodedImage.beside`."""
        # Once each: an image has a long passage once for each of its parts.
        passages = list(dict.fromkeys(as_passages(documents)))
        if not passages:
            return image
        if not self.reads_documents:
            raise DocumentsError(NO_DOCUMENTS)
        config = self.model.config.documents
        assert config is not None
        assert self.model.documents is not None
        cut = fitting(passages, self.tokenizer, config)
        ids = passage_ids([[own for _, own, _ in cut]]).to(self.model.device)
        words = self.model.decoder.token_embedding
        spelled = [[pieces for _, _, pieces in cut]]
        memory, grounding = self.model.documents(image.memory, ids, words, spelled)
        return replace(
            image,
            memory=memory,
            projected=replace(image.projected, grounding=grounding),
            passages=tuple(passage for passage, _, _ in cut),
        )

    def encode(self, source: ImageSource | Photo) -> EncodedImage:
        """Encode one image: a path, bytes, a PIL image, an array, or what `read` gave.

        Raises ImageError when it is none.
        """
        return self.encode_all([source])[0]

    def read(self, source: ImageSource, max_pixels: int = MAX_PIXELS) -> Photo:
        """A photo that waits to be encoded, and mostly needs little room until then.

        Raises ImageError when it is none, or has more than `max_pixels`.
        """
        return read_photo(source, self.preprocess, max_pixels)

    @torch.inference_mode()
    def encode_all(self, sources: Sequence[ImageSource | Photo]) -> list[EncodedImage]:
        """Encode several images, read or not, in one batch."""
        if not sources:
            return []
        photos = [s if isinstance(s, Photo) else self.read(s) for s in sources]
        if self.tokenizer.config.painted:
            return [self._unasked(photo) for photo in photos]
        if self.preprocess.fit == "patches":  # each has a size of its own
            return [self._encoded([photo])[0] for photo in photos]
        return self._encoded(photos)

    @torch.inference_mode()
    def painted(self, image: EncodedImage, question: str) -> EncodedImage:
        """An image encoded with a question above it; its maps lie on the image alone."""
        seen, header = with_header(image.photo.seen, question.strip())
        photo = replace(image.photo, seen=seen)
        (encoded,) = self._encoded([photo])
        assert image.memory.image.grid is not None
        memory = below_header(encoded.memory, header, image.memory.image.grid)
        return replace(encoded, memory=memory, question=question, plain=image, header=header)

    def _unasked(self, photo: Photo) -> EncodedImage:
        """A photo that waits for a question to be painted above it: its memory has a grid, and shows nothing."""
        grid = self.preprocess.grid(*photo.seen.size)
        memory, projected = self.blind
        tokens = memory.tokens.new_zeros(1, grid[0] * grid[1], memory.tokens.shape[2])
        return EncodedImage(self, photo, image_memory(tokens, grid), projected, 0.0)

    def _encoded(self, photos: Sequence[Photo]) -> list[EncodedImage]:
        """Photos of one size, encoded in one batch."""
        start = time.perf_counter()
        pixels = torch.stack([self.preprocess.pixels(photo.seen) for photo in photos])
        pixels = pixels.to(self.model.device)
        memory = self.model.encode(pixels)
        projected = self.model.project(memory)
        synchronise(self.model.device)
        ms = (time.perf_counter() - start) * 1000 / len(photos)
        rows = [torch.tensor([i], device=self.model.device) for i in range(len(photos))]
        return [
            EncodedImage(self, photo, memory.select(row), projected.select(row), ms)
            for photo, row in zip(photos, rows)
        ]

    def caption(self, sources: Sequence[ImageSource | Photo], **options: Any) -> list[Answer]:
        """Caption several images, in batches; the same captions as one by one. Raises ImageError for a bad one."""
        if isinstance(sources, str | bytes | os.PathLike | Image.Image):
            raise ImageError(
                "give a list of images; for a single one there is encode(image).caption()"
            )
        chosen = choose(CAPTION, options)
        sources = list(sources)
        answers: list[Answer] = []
        for start in range(0, len(sources), BATCH):
            images = self.encode_all(sources[start : start + BATCH])
            answers += self.write(images, None, chosen)
        return answers

    def choose(self, questions: Sequence[str] | None, options: Mapping[str, Any]) -> Options:
        """A caller's options over those of a caption, of answers, or of what instructions have done.

        Raises OptionError.
        """
        if questions is None:
            return choose(CAPTION, options)
        told = any(named_instruction(self.tokenizer, question) for question in questions)
        return choose(TOLD if told else ANSWER, options)

    def prompt(self, question: str | None) -> Prompt:
        """What starts a caption, or the answer to a question; with a reader, what that reads.

        Raises QuestionError where there can be none.
        """
        if question is None:
            if "caption" not in self.model.config.tasks:
                raise QuestionError("this model writes no captions; ask it a question")
            if self.model.reader is None:
                return caption_prompt(self.tokenizer)
            question = instruction(self.tokenizer, "caption")
        elif "vqa" not in self.model.config.tasks:
            raise QuestionError("this model answers no questions; it writes captions")
        room = (self.model.config.reader or self.model.config.decoder).max_length
        return question_prompt(self.tokenizer, question, room)

    @torch.inference_mode()
    def start(
        self, images: Sequence[EncodedImage], questions: Sequence[str] | None
    ) -> tuple[Projected, list[tuple[int, ...]]]:
        """What the decoder attends to, and the prompts that it continues: one an image, or one a question and image.

        Raises QuestionError, see `prompt`.
        """
        asked: list[str | None] = list(questions) if questions is not None else [None]
        prompts = [self.prompt(question).ids for _ in images for question in asked]
        projected = Projected.stack([image.projected for image in images])
        if self.model.reader is None:
            return projected, prompts
        read = self.model.decoder.project(self.model.read(projected, prompts))
        return read, [caption_prompt(self.tokenizer).ids for _ in prompts]

    def steps(
        self,
        projected: Projected,
        prompts: Sequence[Sequence[int]],
        options: Options,
        answering: bool,
        nudges: Sequence[Nudge],
        wanted: Callable[[int], bool] = lambda prompt: True,
    ) -> Iterator[list[list[Hypothesis]]]:
        """The hypotheses after each token, of answers or of captions; see `vlm.generate.stream`."""
        return stream(
            self.model.decoder,
            projected,
            prompts,
            self.tokenizer.end,
            self.tokenizer.pad,
            options,
            wanted=wanted,
            calibration=self.calibration(answering),
            nudges=nudges,
        )

    def nudges(
        self, images: Sequence[EncodedImage], questions: Sequence[str] | None
    ) -> list[Nudge]:
        """What each prompt's text is nudged to use, in the order of `start`'s prompts; answers are not."""
        if questions is not None:
            return [Nudge()] * (len(images) * len(questions))
        nats = 0.0 if self.model.config.tags is None else self.model.config.tags.nudge
        return [Nudge(image.memory.sure[0] if nats else (), nats) for image in images]

    def calibration(self, answering: bool) -> float:
        """What logits are divided by where the probabilities of answers, or of captions, are told."""
        temperatures = self.model.config.calibration
        return temperatures.answers if answering else temperatures.captions

    def write(
        self, images: Sequence[EncodedImage], questions: Sequence[str] | None, options: Options
    ) -> list[Answer]:
        """Caption every image (`questions` None), or ask every image all of the questions, in one batch."""
        asked: list[str | None] = list(questions) if questions is not None else [None]
        if self.tokenizer.config.painted and questions is not None:
            if len(images) * len(questions) > 1:  # they have nothing to share
                pairs = [(image, question) for image in images for question in questions]
                return [self.write([image], [question], options)[0] for image, question in pairs]
            images = [images[0].asked(questions[0])]
        start = time.perf_counter()
        projected, prompts = self.start(images, questions)
        nudges = self.nudges(images, questions)
        steps = self.steps(projected, prompts, options, questions is not None, nudges)
        results, first = next(steps), time.perf_counter()
        for step in steps:
            results = step
        took = Took.since(start, first, len(prompts))
        asking = [(image, question) for image in images for question in asked]
        return [
            self.answer(image, question, hypotheses, took)
            for (image, question), hypotheses in zip(asking, results)
        ]

    @torch.inference_mode()
    def score(self, image: EncodedImage, text: str, question: str | None) -> Answer:
        """The probability that the model gives to a text."""
        ids = text_ids(self.tokenizer, text)
        if not ids:
            raise QuestionError("the text to explain is empty; write one")
        return self.score_ids(image, ids, question)

    @torch.inference_mode()
    def score_ids(
        self,
        image: EncodedImage,
        ids: Sequence[int],
        question: str | None,
        finished: bool = True,
    ) -> Answer:
        """The probability that the model gives to a text's tokens, and where it `finished` to its end."""
        image = image.asked(question)
        start = time.perf_counter()
        projected, (prompt,) = self.start([image], None if question is None else [question])
        room = self.model.config.decoder.max_length - len(prompt)
        if len(ids) > room:
            raise QuestionError(
                f"the text is too long: {len(ids)} tokens, and there is room for {room}"
            )
        said = [*ids, *[self.tokenizer.end] * finished]
        own = self.logprobs(projected, prompt, said)
        calibrated = self.logprobs(projected, prompt, said, self.calibration(question is not None))
        task = CAPTION if question is None else ANSWER
        score = sum(own) / len(own) ** task.length_penalty
        hypothesis = Hypothesis(tuple(ids), calibrated, score, finished)
        return self.answer(image, question, [hypothesis], Took.since(start))

    @torch.inference_mode()
    def logprobs(
        self,
        projected: Projected,
        prompt: Sequence[int],
        ids: Sequence[int],
        calibration: float = 1.0,
    ) -> tuple[float, ...]:
        """The log-probability of each of some tokens that continue a prompt, calibrated or the model's own."""
        sequence = torch.tensor([[*prompt, *ids[:-1]]], device=self.model.device)
        hidden = self.model.decoder(sequence, projected).hidden[0, len(prompt) - 1 :]
        logits = self.model.decoder.logits(hidden)  # (T, V)
        logprobs = (logits / calibration).log_softmax(dim=-1)
        targets = torch.tensor(ids, device=self.model.device)
        return tuple(logprobs.gather(1, targets[:, None])[:, 0].tolist())

    def judgement(
        self, image: EncodedImage, answering: bool, confidence: float, logprobs: Sequence[float]
    ) -> Judgement | None:
        """How far to trust a text, and why; None where the checkpoint has no fit for it. See `VerdictConfig`."""
        fitted, likeness = self.model.config.verdict, self.model.likeness
        if fitted is None or likeness is None:
            return None
        photo = likeness(image.memory).item() >= fitted.photo
        if answering:
            return Judgement(confidence, fitted.sure_answer, fitted.guess_answer, photo)
        likely = math.exp(sum(logprobs) / len(logprobs))
        return Judgement(likely, fitted.sure_caption, fitted.guess_caption, photo)

    def places(
        self, image: EncodedImage, question: str | None, ids: Sequence[int]
    ) -> tuple[Place, ...]:
        """The places that a text names; lines of text have four corners, all else two."""
        if "locate" not in self.model.config.tasks:
            return ()
        told = None if question is None else named_instruction(self.tokenizer, question)
        corners = 4 if told == "ocr with regions" else 2
        return places_of(self.tokenizer, ids, image.frame, corners)

    def answer(
        self,
        image: EncodedImage,
        question: str | None,
        hypotheses: Sequence[Hypothesis],
        took: Took,
    ) -> Answer:
        """The Answer that a search's last hypotheses for one prompt make."""
        (best, hypothesis), *others = candidates(
            self.tokenizer, hypotheses, ranked_by_confidence=question is not None
        )
        has_fields = self.tokenizer.config.fields
        text, words = best.text, words_of(self.tokenizer, hypothesis)
        if image.passages:
            spelled = spelled_as([word.text for word in words], image.passages)
            words = tuple(replace(word, text=own) for word, own in zip(words, spelled))
            text = " ".join(spelled)
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
            judgement=self.judgement(
                image, question is not None, best.confidence, hypothesis.logprobs
            ),
            fields=fields_of(self.tokenizer, hypothesis.ids) if has_fields else None,
            places=self.places(image, question, hypothesis.ids),
        )


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that the time that is taken then is the work's."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
