"""The facade: an image and maybe a question in, an Answer out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from vlm.answering import found, given
from vlm.answers import Answer
from vlm.documents.passages import Passage
from vlm.encoded_image import EncodedImage, Took
from vlm.generate import Hypothesis, stream
from vlm.images import MAX_PIXELS, ImageError, ImageSource, Photo, read_photo
from vlm.images.header import with_header
from vlm.images.photo import Entered
from vlm.model.config import DocumentsConfig
from vlm.model.decoder import Projected
from vlm.model.grounding import passage_ids
from vlm.model.memory import Memory, below_header, image_memory
from vlm.model.model import VisionLanguageModel
from vlm.nudges import Nudge
from vlm.options import ANSWER, CAPTION, TOLD, Options, choose
from vlm.passages_beside import (
    NO_DOCUMENTS,
    NOT_ON_OPENVINO,
    DocumentsError,
    as_passages,
    fitting,
)
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

BATCH = 16  # images encoded and decoded together
# Of these a CPU encodes so many at a time: the activations of more leave its caches, and are so large that their memory
# is asked of the system, and filled with zeros by it, for each layer anew.
ENCODED = 4


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

    @property
    def reading(self) -> DocumentsConfig:
        """How documents are read beside an image. Raises DocumentsError where they are not."""
        config = self.model.config.documents
        if config is None:
            raise DocumentsError(NO_DOCUMENTS)
        if not self.reads_documents:
            raise DocumentsError(NOT_ON_OPENVINO)
        return config

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

    @cached_property
    def blank_vector(self) -> list[float]:
        """The mean `(D,)` of the memory's patches where the model sees no image; see `EncodedImage.vector`."""
        memory, _ = self.blind
        return memory.tokens[0, : memory.image.stop].mean(dim=0).tolist()

    @cached_property
    def without_photo(self) -> EncodedImage:
        """What questions about documents alone are asked of: the mean image, which a photo's effect is judged by."""
        picture = Image.new("RGB", self.preprocess.size[::-1], "gray")
        seen, frame = self.preprocess.view(picture)
        photo = Photo(seen, frame, lambda: picture, Entered(None, (0, 0), 0.0))
        return EncodedImage(self, photo, *self.blind, 0.0, whole=False, blank=True)

    @torch.inference_mode()
    def beside(self, image: EncodedImage, documents: Sequence[str | Passage]) -> EncodedImage:
        """An image, which has none, with passages; see `EncodedImage.beside`."""
        # Once each: an image has a long passage once for each of its parts.
        passages = list(dict.fromkeys(as_passages(documents)))
        if not passages:
            return image
        config = self.reading
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
        """Encode several images, read or not, in batches."""
        if not sources:
            return []
        photos = [s if isinstance(s, Photo) else self.read(s) for s in sources]
        if self.tokenizer.config.painted:
            return [self._unasked(photo) for photo in photos]
        if self.preprocess.fit == "patches":  # each has a size of its own
            return [self._encoded([photo])[0] for photo in photos]
        size = ENCODED if self.model.device.type == "cpu" else len(photos)
        parts = (photos[start : start + size] for start in range(0, len(photos), size))
        return [image for part in parts for image in self._encoded(part)]

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
            found(image, question, hypotheses, took)
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
        return given(image, question, hypothesis, Took.since(start))

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


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that the time that is taken then is the work's."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
