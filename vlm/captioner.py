"""The facade: an image and maybe a question in, an Answer out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlm.errors import UserError
from vlm.explain.maps import WordMap, word_maps
from vlm.generate import Hypothesis, generate, stream
from vlm.images import Frame, ImageError, ImageSource, load_image
from vlm.model.decoder import Projected
from vlm.model.memory import Memory
from vlm.model.model import VisionLanguageModel
from vlm.model.vision import folded
from vlm.options import ANSWER, CAPTION, Options, choose
from vlm.runtimes.openvino import BackendError, compile_model
from vlm.runtimes.packed import can_pack, pack
from vlm.tokenizer import Tokenizer
from vlm.weights.convert import converted, family
from vlm.weights.hub import find
from vlm.weights.store import load_checkpoint

BATCH = 8  # images encoded and decoded together


class QuestionError(UserError):
    """A question that cannot be asked; the message says why."""


@dataclass(frozen=True)
class Word:
    """A word and the natural logarithm of its probability, given the words before it."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Alternative:
    """Another text the model considered, and its probability."""

    text: str
    confidence: float


@dataclass(frozen=True)
class Answer:
    """A caption, or the answer to `question`.

    `score` is what candidates were ranked by (mean log-probability a token by default for captions, summed for
    answers); `confidence` in 0..1 is the probability of the whole text; `alternatives` are the other candidates,
    best first; `ms` are the milliseconds spent on "encode" and "decode".
    """

    text: str
    score: float
    confidence: float
    words: tuple[Word, ...]
    alternatives: tuple[Alternative, ...]
    question: str | None
    ms: dict[str, float]
    image: EncodedImage = field(repr=False, compare=False)
    ids: tuple[int, ...] = field(repr=False)

    def maps(self, layer: int | None = None, head: int | None = None) -> list[WordMap]:
        """One map for each word of the question, if any, and of the text; layer and head count from 0."""
        return self.image.maps(self.ids, self.question, layer, head)

    def overlay(self, word: str | int | None = None, **style: Any) -> Image.Image:
        """The image with one word's map over it, or a labelled sheet of all words.

        `word` is a word (its first occurrence in the text, else in the question) or its index among `maps()`;
        `style` are keywords of `vlm.explain.overlay.overlay` or, of all words, of its `sheet`.
        Raises ValueError when there is no such word.
        """
        from vlm.explain.overlay import overlay, sheet

        maps = self.maps()
        if word is None:
            return sheet(self.image.picture, self.image.frame, maps, **style)
        if isinstance(word, str):
            matches = [m for m in maps if m.text.lower() == word.lower()]
            if not matches:
                raise ValueError(
                    f"{word!r} is not one of the words: {', '.join(m.text for m in maps)}"
                )
            first = min(matches, key=lambda match: match.role == "question")
            return overlay(self.image.picture, self.image.frame, first, **style)
        if not -len(maps) <= word < len(maps):
            raise ValueError(f"there is no word {word}; there are {len(maps)}")
        return overlay(self.image.picture, self.image.frame, maps[word], **style)


class EncodedImage:
    """An image that has been encoded; captions, questions and maps share the encoding."""

    def __init__(
        self,
        captioner: Captioner,
        picture: Image.Image,
        frame: Frame,
        memory: Memory,
        projected: Projected,
        encode_ms: float,
    ) -> None:
        self.captioner = captioner
        self.picture = picture
        self.frame = frame
        self.memory = memory
        self.projected = projected
        self.encode_ms = encode_ms

    def caption(self, **options: Any) -> Answer:
        """Caption the image; `options` are those of `vlm.Options`, three beams by default."""
        return self.captioner.write([self], None, choose(CAPTION, options))[0]

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer a question. Raises QuestionError when it is empty or too long."""
        return self.ask_all([question], **options)[0]

    def ask_all(self, questions: Sequence[str], **options: Any) -> list[Answer]:
        """Answer several questions in one batch that shares the encoding. Raises QuestionError, see `ask`."""
        if isinstance(questions, str):
            raise QuestionError("ask_all takes a list of questions; ask takes a single one")
        questions = list(questions)
        if not all(isinstance(question, str) for question in questions):
            raise QuestionError("a question must be a text")
        if not questions:
            return []
        return self.captioner.write([self], questions, choose(ANSWER, options))

    def stream(self, question: str | None = None, **options: Any) -> Iterator[Word]:
        """Yield the words of a greedy (or sampled) caption or answer as soon as each is complete.

        `options` are those of `vlm.Options`, without the task's beams. Raises ValueError for several beams or
        candidates.
        """
        chosen = choose(CAPTION if question is None else ANSWER, {"beams": 1, **options})
        if chosen.beams > 1:
            raise ValueError("beams may change words that were shown; stream with beams=1")
        if chosen.candidates > 1:
            raise ValueError("another candidate may become the best; stream with candidates=1")
        tokenizer = self.captioner.tokenizer
        asked = None if question is None else [question]
        projected, prompts = self.captioner.start([self], asked)
        shown = 0
        for step in self.captioner.steps(projected, prompts, chosen):
            hypothesis = step[0][0]
            words = _words(tokenizer, hypothesis)
            # The last word may still grow until the next begins.
            complete = len(words) if hypothesis.finished else len(words) - 1
            yield from words[shown:complete]
            shown = max(shown, complete)
        yield from words[shown:]

    def explain(self, text: str, question: str | None = None) -> Answer:
        """A text of the user's own as an Answer: the probability and the maps the model gives it."""
        return self.captioner.score(self, text, question)

    def maps(
        self,
        ids: Sequence[int],
        question: str | None = None,
        layer: int | None = None,
        head: int | None = None,
    ) -> list[WordMap]:
        """Maps of the words of `ids`; see `vlm.explain.maps.word_maps`."""
        if question is not None:
            question = " ".join(question.split())  # as `Captioner.prompt` reads it
        model, tokenizer = self.captioner.model, self.captioner.tokenizer
        return word_maps(model, tokenizer, self.memory, ids, question, layer, head, self.projected)


class Captioner:
    """A model, its tokenizer and its preprocessing. Holds no state between calls."""

    def __init__(self, model: VisionLanguageModel, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.preprocess = model.config.vision.preprocess

    def encode(self, source: ImageSource) -> EncodedImage:
        """Encode one image: a path, bytes, a PIL image or an array. Raises ImageError when it is none."""
        return self.encode_all([source])[0]

    @torch.inference_mode()
    def encode_all(self, sources: Sequence[ImageSource]) -> list[EncodedImage]:
        """Encode several images in one batch."""
        if not sources:
            return []
        pictures = [load_image(source) for source in sources]
        start = time.perf_counter()
        prepared = [self.preprocess(picture) for picture in pictures]
        pixels = torch.stack([pixels for pixels, _ in prepared]).to(self.model.device)
        memory = self.model.encode(pixels)
        projected = self.model.project(memory)
        ms = (time.perf_counter() - start) * 1000 / len(sources)
        rows = [torch.tensor([i], device=self.model.device) for i in range(len(sources))]
        return [
            EncodedImage(self, picture, frame, memory.select(row), projected.select(row), ms)
            for picture, (_, frame), row in zip(pictures, prepared, rows)
        ]

    def caption(self, sources: Sequence[ImageSource], **options: Any) -> list[Answer]:
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

    def prompt(self, question: str | None) -> list[int]:
        """The ids that start a caption, or the answer to a question. Raises QuestionError where there can be none."""
        if question is None:
            if "caption" not in self.model.config.tasks:
                raise QuestionError("this model writes no captions; ask it a question")
            return self.tokenizer.caption_prompt()
        if "vqa" not in self.model.config.tasks:
            raise QuestionError("this model answers no questions; it writes captions")
        question = " ".join(question.split())
        if not question:
            raise QuestionError("the question is empty; write one")
        prompt = self.tokenizer.question_prompt(question)
        room = (self.model.config.reader or self.model.config.decoder).max_length
        if len(prompt) >= room:
            raise QuestionError(
                f"the question is too long: {len(prompt) - 2} tokens, and this model reads {room - 3}"
            )
        return prompt

    @torch.inference_mode()
    def start(
        self, images: Sequence[EncodedImage], questions: Sequence[str] | None
    ) -> tuple[Projected, list[list[int]]]:
        """What the decoder attends to, and the prompts that it continues: one an image, or one a question and image.

        Raises QuestionError, see `prompt`.
        """
        asked: list[str | None] = list(questions) if questions is not None else [None]
        prompts = [self.prompt(question) for _ in images for question in asked]
        projected = _stack([image.projected for image in images])
        if questions is None or self.model.reader is None:
            return projected, prompts
        read = self.model.decoder.project(self.model.read(projected, prompts))
        return read, [self.tokenizer.caption_prompt() for _ in prompts]

    def steps(
        self, projected: Projected, prompts: Sequence[Sequence[int]], options: Options
    ) -> Iterator[list[list[Hypothesis]]]:
        """The hypotheses after each token; see `vlm.generate.stream`."""
        return stream(
            self.model.decoder,
            projected,
            prompts,
            self.tokenizer.end,
            self.tokenizer.pad,
            options,
        )

    def write(
        self, images: Sequence[EncodedImage], questions: Sequence[str] | None, options: Options
    ) -> list[Answer]:
        """Caption every image (`questions` None), or ask every image all of the questions, in one batch."""
        asked: list[str | None] = list(questions) if questions is not None else [None]
        start = time.perf_counter()
        projected, prompts = self.start(images, questions)
        results = generate(
            self.model.decoder,
            projected,
            prompts,
            self.tokenizer.end,
            self.tokenizer.pad,
            options,
        )
        ms = (time.perf_counter() - start) * 1000 / len(prompts)
        pairs = [(image, question) for image in images for question in asked]
        return [
            self._answer(image, question, hypotheses, ms)
            for (image, question), hypotheses in zip(pairs, results)
        ]

    @torch.inference_mode()
    def score(self, image: EncodedImage, text: str, question: str | None) -> Answer:
        """The probability that the model gives to a text."""
        ids = self.tokenizer.encode(text)
        if not ids:
            raise QuestionError("the text to explain is empty; write one")
        start = time.perf_counter()
        projected, (prompt,) = self.start([image], None if question is None else [question])
        room = self.model.config.decoder.max_length - len(prompt)
        if len(ids) > room:
            raise QuestionError(
                f"the text is too long: {len(ids)} tokens, and there is room for {room}"
            )
        sequence = torch.tensor([[*prompt, *ids]], device=self.model.device)
        hidden = self.model.decoder(sequence, projected).hidden[0, len(prompt) - 1 :]
        logprobs = self.model.decoder.logits(hidden).log_softmax(dim=-1)  # (T + 1, V)
        targets = torch.tensor([*ids, self.tokenizer.end], device=self.model.device)
        chosen = logprobs.gather(1, targets[:, None])[:, 0].tolist()
        task = CAPTION if question is None else ANSWER
        score = sum(chosen) / len(chosen) ** task.length_penalty
        hypothesis = Hypothesis(tuple(ids), tuple(chosen), score, True)
        ms = (time.perf_counter() - start) * 1000
        return self._answer(image, question, [hypothesis], ms)

    def _answer(
        self,
        image: EncodedImage,
        question: str | None,
        hypotheses: Sequence[Hypothesis],
        decode_ms: float,
    ) -> Answer:
        best = hypotheses[0]
        probabilities: dict[str, float] = {}  # several token sequences may spell one text
        for hypothesis in {h.ids: h for h in hypotheses}.values():  # samples may coincide
            text = self.tokenizer.decode(hypothesis.ids)
            probability = math.exp(sum(hypothesis.logprobs))
            probabilities[text] = probabilities.get(text, 0.0) + probability
        text = self.tokenizer.decode(best.ids)
        return Answer(
            text=text,
            score=best.score,
            confidence=min(1.0, probabilities.pop(text)),
            words=tuple(_words(self.tokenizer, best)),
            alternatives=tuple(Alternative(t, min(1.0, p)) for t, p in probabilities.items()),
            question=question,
            ms={"encode": image.encode_ms, "decode": decode_ms},
            image=image,
            ids=best.ids,
        )


def load(
    name: str | Path | None = None,
    device: str = "cpu",
    openvino: bool = False,
    int8: bool = False,
) -> Captioner:
    """Load a checkpoint: the bundled one, a bundled name, a folder, or a hub id.

    One of another library, e.g. "Salesforce/blip-image-captioning-base", is converted at its first use, and the
    result is kept; see `vlm.weights.convert`. On x86 processors the weights are laid out for inference; see
    `vlm.runtimes.packed`. With `openvino` OpenVINO runs the model, and with `int8` so, over weights in 8 bits; see
    `vlm.runtimes.openvino`. Raises `vlm.weights.store.CheckpointError` when there is none or it is damaged, and
    `vlm.runtimes.openvino.BackendError` where OpenVINO is not to be had, or not on that device.
    """
    if (openvino or int8) and device != "cpu":
        raise BackendError(f"OpenVINO runs models on the CPU here, not on {device}")
    folder = find(name)
    model, tokenizer = load_checkpoint(converted(folder) if family(folder) else folder)
    model.vision = folded(model.vision)
    if openvino or int8:
        compile_model(model, int8)
    elif device == "cpu" and can_pack():
        pack(model)
    return Captioner(model.to(device), tokenizer)


def _words(tokenizer: Tokenizer, hypothesis: Hypothesis) -> list[Word]:
    return [
        Word(span.text, sum(hypothesis.logprobs[token] for token in span.tokens))
        for span in tokenizer.words(hypothesis.ids)
    ]


def _stack(parts: Sequence[Projected]) -> Projected:
    """Projections of single images as one batch; one alone stays the view it is."""
    if len(parts) == 1:
        return parts[0]
    layers = tuple(
        (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
        for layer in zip(*(part.layers for part in parts))
    )
    masks = [part.mask for part in parts if part.mask is not None]
    return Projected(layers, torch.cat(masks) if masks else None)
