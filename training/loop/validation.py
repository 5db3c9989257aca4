"""How good the model is on dev images: its loss, and the scores of the words it writes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset

from vlm.generate import generate
from vlm.model.model import VisionLanguageModel
from vlm.options import Options
from vlm.prompts import caption_prompt, clean_text, question_prompt
from vlm.tokenizer import Tokenizer

from ..data.mixing import attempt
from ..data.records import Record
from ..data.report import Broken
from ..recipe.sources import Group
from .examples import Batch, examples, make_batch
from .inputs import Inputs
from .objectives import Likelihood, encode


@dataclass(frozen=True)
class Prediction:
    """What the model wrote for a dev image, or answered to the question of `record`."""

    group: Group
    record: Record
    text: str


class Dev:
    """Dev images in a fixed order; each process takes its part of them.

    Nothing is drawn: images are not mirrored, all questions are asked, and an image that cannot be read is left out.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        inputs: Inputs,
        tokenizer: Tokenizer,
        max_length: int,
        batch_images: int,
        workers: int,
    ) -> None:
        self.groups = list(groups)
        random.Random(0).shuffle(self.groups)  # so that the first few are of all sources
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_images = batch_images
        self.workers = workers

    def loss(self, model: VisionLanguageModel, accelerator: Accelerator) -> float:
        """Mean cross-entropy in nats a token, without smoothing or dropout."""
        likelihood = Likelihood(model)
        total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        with torch.inference_mode():
            for _, batch in self._batches(self.groups, accelerator):
                with accelerator.autocast():
                    loss = likelihood(batch.to(accelerator.device))
                total += torch.tensor([loss.item(), batch.targets], device=total.device)
        nats, tokens = accelerator.reduce(total).tolist()
        return nats / tokens if tokens else math.nan  # where no image could be read

    def predict(
        self, model: VisionLanguageModel, accelerator: Accelerator, images: int
    ) -> list[Prediction]:
        """Greedy captions and answers for the first `images` images, on every process."""
        predictions: list[Prediction] = []
        with torch.inference_mode():
            for groups, batch in self._batches(self.groups[:images], accelerator):
                with accelerator.autocast():
                    predictions += self._predict(model, groups, batch.to(accelerator.device))
        return gather_object(predictions)

    def _batches(
        self, groups: Sequence[Group], accelerator: Accelerator
    ) -> Iterator[tuple[list[Group], Batch]]:
        mine = groups[accelerator.process_index :: accelerator.num_processes]
        return iter(DataLoader(_Batches(self, mine), batch_size=None, num_workers=self.workers))

    def _predict(
        self, model: VisionLanguageModel, groups: list[Group], batch: Batch
    ) -> list[Prediction]:
        asked = [
            (image, group, record)
            for image, group in enumerate(groups)
            for record in _first_caption_and_questions(group)
        ]
        prompts = [
            caption_prompt(self.tokenizer).ids
            if record.question is None
            else question_prompt(self.tokenizer, record.question).ids
            for _, _, record in asked
        ]
        fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < self.max_length]
        asked, prompts = [asked[i] for i in fitting], [prompts[i] for i in fitting]
        if not prompts:
            return []
        rows = torch.tensor([image for image, _, _ in asked], device=model.device)
        projected = model.decoder.project(encode(model, batch)).select(rows)
        end, pad = self.tokenizer.end, self.tokenizer.pad
        written = generate(model.decoder, projected, prompts, end, pad, Options())
        return [
            Prediction(group, record, self.tokenizer.decode(best.ids))
            for (_, group, record), (best, *_) in zip(asked, written)
        ]


class _Batches(Dataset[tuple[list[Group], Batch]]):
    def __init__(self, dev: Dev, groups: Sequence[Group]) -> None:
        self.dev = dev
        self.groups = groups

    def __len__(self) -> int:
        return -(-len(self.groups) // self.dev.batch_images)

    def __getitem__(self, index: int) -> tuple[list[Group], Batch]:
        dev, first = self.dev, index * self.dev.batch_images
        groups, images = [], []
        for group in self.groups[first : first + dev.batch_images]:
            image = attempt(dev.inputs.load, group, group.image)
            if not isinstance(image, Broken):
                groups.append(group)
                images.append(image)
        rows = [examples(group, dev.tokenizer) for group in groups]
        keys = [group.image.key for group in groups]
        pad, max_length = dev.tokenizer.pad, dev.max_length
        return groups, make_batch(keys, images, rows, dev.inputs, pad, max_length)


def _first_caption_and_questions(group: Group) -> Iterator[Record]:
    """What to write about an image: one caption, whatever the number of references, and each answer."""
    captions = [record for record in group.records if record.question is None]
    yield from captions[:1]
    yield from (record for record in group.records if record.question is not None)


def score(predictions: Sequence[Prediction]) -> dict[str, float]:
    """CIDEr of captions, and accuracy of answers, in points, where there are any."""
    points = score_each(predictions)
    kinds = {
        "CIDEr": [x for x, p in zip(points, predictions) if p.record.question is None],
        "accuracy": [x for x, p in zip(points, predictions) if p.record.question is not None],
    }
    return {name: sum(values) / len(values) for name, values in kinds.items() if values}


def score_each(predictions: Sequence[Prediction]) -> list[float]:
    """Points of each prediction: CIDEr of a caption among all of them (0 for a single one), accuracy of an answer.

    Accuracy is the VQA accuracy where several people have answered, else exact match.
    """
    from ..evaluation.metrics.captions import score_captions
    from ..evaluation.metrics.vqa import answer_set_match, vqa_accuracy

    captions = {p.group.image.key: p for p in predictions if p.record.question is None}
    ciders = dict.fromkeys(captions, 0.0)
    if len(captions) > 1:
        texts = {key: p.text for key, p in captions.items()}
        references = {key: caption_references(p.group) for key, p in captions.items()}
        scores = score_captions(texts, references)
        ciders = dict(zip(scores.image_ids, scores.per_image["CIDEr"].tolist()))

    def points(p: Prediction) -> float:
        if p.record.question is None:
            return ciders[p.group.image.key]
        if len(p.record.texts) > 1:
            return 100 * vqa_accuracy(p.text, p.record.texts)
        [answer] = p.record.texts
        return 100 * answer_set_match(clean_text(p.text).lower(), clean_text(answer).lower())

    return [points(p) for p in predictions]


def caption_references(group: Group) -> list[str]:
    """All captions of an image."""
    return [text for record in group.records if record.question is None for text in record.texts]
